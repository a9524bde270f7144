"""A file of keys that may change while a service runs: what was added lets in, what was taken out
does not, within a second and without a restart.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from shared.access.keys import KeyRing, read_keys
from shared.errors import Invalid

# How often the file is looked at, while requests come.
LOOK_SECONDS = 1.0

_log = logging.getLogger(__name__)


class KeyFile:
    """Called, it returns the keys of the file as it is.

    A file that has become unreadable leaves the keys as they were, and is logged: half an edit is
    not to lock everybody out, nor to let anybody in.

    Raises:
        Invalid: it cannot be read to begin with.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen = self._state()
        self._ring = self._read()
        self._look_at = clock() + LOOK_SECONDS

    def __call__(self) -> KeyRing:
        """The keys."""
        if (now := self._clock()) >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look()
        return self._ring

    def _look(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._ring = self._read()
        except Invalid as error:
            _log.error("the keys stay as they were", extra={"problem": error.message})
            return
        _log.info("the keys were read anew", extra={"keys": len(self._ring)})

    def _state(self) -> tuple[int, ...]:
        """What changes with the file; Kubernetes puts another in its place."""
        try:
            state = self._path.stat()
        except OSError:
            return ()
        return state.st_mtime_ns, state.st_ino, state.st_size

    def _read(self) -> KeyRing:
        try:
            return read_keys(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "no UTF-8"
            raise Invalid(f"{self._path}: {why}", field="keys") from error
        except Invalid as error:
            raise Invalid(f"{self._path}: {error.message}", field=error.field) from error
