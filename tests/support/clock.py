"""A clock that a test moves on, so that nobody has to wait for a deadline, nor to be quick."""

import time
from dataclasses import dataclass

import pytest


@dataclass
class Clock:
    """In place of the module `time`, where only `perf_counter` is asked for; `ahead` of it by so
    many seconds.
    """

    ahead: float = 0.0

    def perf_counter(self) -> float:
        """Seconds, as the real one tells them and `ahead`."""
        return time.perf_counter() + self.ahead


def deadlines_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that every deadline is held against from now on."""
    clock = Clock()
    monkeypatch.setattr("shared.runtime.deadline.time", clock)
    return clock
