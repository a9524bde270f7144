"""Files of keys that may change while a service runs: within a second, and without a restart, what
was added to one lets in and what was taken out does not; and another key is sent.
"""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from shared.access.keys import KeyRing, read_keys
from shared.errors import Invalid

# How often the file is looked at, while requests come.
LOOK_SECONDS = 1.0

_SENT = re.compile(r"[\x21-\x7e]{1,512}")

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Watched(Generic[T]):
    """Called, it returns what the file says as it is.

    A file that has become unreadable leaves what was read before, and is logged: half an edit is
    not to lock everybody out, nor to let anybody in.

    Args:
        read: what a text says; raises `Invalid`, and repeats nothing of it.
        field: what an error names.

    Raises:
        Invalid: it cannot be read to begin with.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[str], T],
        field: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._of_text = read
        self._field = field
        self._clock = clock
        self._seen = self._state()
        self._found = self._read()
        self._look_at = clock() + LOOK_SECONDS

    def __call__(self) -> T:
        """What it says."""
        if (now := self._clock()) >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look()
        return self._found

    def _look(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._found = self._read()
        except Invalid as error:
            _log.error("keys stay as they were", extra={"problem": error.message})
            return
        _log.info("keys were read anew", extra={"file": str(self._path)})

    def _state(self) -> tuple[int, ...]:
        """What changes with the file; Kubernetes puts another in its place."""
        try:
            state = self._path.stat()
        except OSError:
            return ()
        return state.st_mtime_ns, state.st_ino, state.st_size

    def _read(self) -> T:
        try:
            return self._of_text(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "no UTF-8"
            raise Invalid(f"{self._path}: {why}", field=self._field) from error
        except Invalid as error:
            raise Invalid(f"{self._path}: {error.message}", field=error.field) from error


class KeyFile(Watched[KeyRing]):
    """The keys that let callers in; raises as `Watched`."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(path, read_keys, "keys", clock)


class SentKey(Watched[bytes]):
    """The `Authorization` header a key in a file of its own is sent with; raises as `Watched`."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(path, _authorization, "key", clock)


def _authorization(text: str) -> bytes:
    if not _SENT.fullmatch(key := text.strip()):
        raise Invalid("no key: allowed is one line of up to 512 visible ASCII characters")
    return f"Bearer {key}".encode()
