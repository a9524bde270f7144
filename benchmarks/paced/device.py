"""One device that several processes compute on in turn: a lock in a file, with an account of the
time it was held. It knows no models.
"""

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SECONDS = struct.Struct("d")


class Device:
    """Whose turn it is, by a file that every process opens for itself; one thread of each computes.

    Who waits for the device to begin a step gets it before anyone who comes later; who goes on with
    a step passes them by, as its kernels are queued already.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT
        self._use = os.open(path, flags, 0o600)
        self._queue = os.open(path.with_suffix(".queue"), flags, 0o600)

    @property
    def seconds(self) -> float:
        """Seconds it was held for so far, by all processes together."""
        told = os.pread(self._use, _SECONDS.size, 0)
        return float(_SECONDS.unpack(told)[0]) if told else 0.0

    @contextmanager
    def turn(self, *, begins: bool) -> Iterator[bool]:
        """Hold the device; yields whether it had to be waited for.

        Args:
            begins: a step, which queues behind the others.
        """
        waited = self._claim(queues=begins)
        began = time.perf_counter()
        try:
            yield waited
        finally:
            self._account(time.perf_counter() - began)
            fcntl.flock(self._use, fcntl.LOCK_UN)

    def _claim(self, *, queues: bool) -> bool:
        waited = _lock(self._queue) if queues else False
        try:
            return _lock(self._use) or waited
        finally:
            if queues:
                fcntl.flock(self._queue, fcntl.LOCK_UN)

    def _account(self, seconds: float) -> None:
        os.pwrite(self._use, _SECONDS.pack(self.seconds + seconds), 0)


def _lock(file: int) -> bool:
    """Lock it; true if another held it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    return False
