"""A circuit breaker: after a failure nothing is tried for a while that doubles with every further
one (Nygard, Release It!, ch. 5).

Time is an argument of the constructor, so tests need not sleep.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

# Those that lost the same service do not all come back in the same moment (gRPC A6: 20 %).
JITTER = 0.2


def jittered() -> float:
    """A factor about 1."""
    return random.uniform(1 - JITTER, 1 + JITTER)


@dataclass(slots=True)
class Breaker:
    """Whether something that failed may be tried again.

    Args:
        first_pause_seconds: how long it rests after the first failure.
        longest_pause_seconds: the most it ever rests, but for the jitter.
        clock: seconds, monotonic.
        jitter: factor of each pause.
    """

    first_pause_seconds: float
    longest_pause_seconds: float
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = jittered
    failures: int = 0
    last_failure: str | None = None
    _resume_at: float = 0.0
    _held_until: float = 0.0

    @property
    def rested(self) -> bool:
        """Whether it may be tried now: nothing failed lately, and nobody is just trying."""
        return self.failures == 0 or self.clock() >= max(self._resume_at, self._held_until)

    @property
    def seconds_to_retry(self) -> float:
        """Seconds until the next try is allowed; 0 when it is now."""
        return max(0.0, self._resume_at - self.clock()) if self.failures else 0.0

    def hold(self, seconds: float) -> None:
        """Keep others away for so long, or until it is known what came of one's own try."""
        self._held_until = self.clock() + seconds

    def succeeded(self) -> None:
        """Record an answer."""
        self.failures = 0
        self.last_failure = None

    def failed(self, reason: str) -> bool:
        """Record a failure; what fails while it rests is the same outage. True if it was news."""
        self._held_until = 0.0
        if self.failures and self.clock() < self._resume_at:
            return False
        self.failures += 1
        self.last_failure = reason
        pause = self.first_pause_seconds * 2 ** min(self.failures - 1, 16)
        self._resume_at = self.clock() + min(pause, self.longest_pause_seconds) * self.jitter()
        return True
