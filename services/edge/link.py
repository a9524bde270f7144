"""What the edge knows of the path to the cloud: round-trip estimate, failures, and a circuit
breaker.

After a failure the link is closed to new tries for a while that doubles with every further one;
then the next tries decide. Time is an argument of the constructor, so tests need not sleep. Never
subtracts one machine's clock from the other's.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Link:
    """The state of the path to one cloud.

    Args:
        first_pause_seconds: how long the link rests after the first failure.
        longest_pause_seconds: the most it ever rests.
        clock: seconds, monotonic.
    """

    first_pause_seconds: float
    longest_pause_seconds: float
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    last_failure: str | None = None
    unfit: str | None = None
    cloud_format: str | None = None
    round_trip_seconds: float | None = None
    _resume_at: float = field(default=0.0)

    @property
    def usable(self) -> bool:
        """Whether a request may be tried now."""
        return self.unfit is None and (self.failures == 0 or self.clock() >= self._resume_at)

    @property
    def up(self) -> bool:
        """Whether the last thing known of the cloud is good."""
        return self.unfit is None and self.failures == 0

    @property
    def seconds_to_retry(self) -> float:
        """Seconds until the next try is allowed; 0 when it is now."""
        return max(0.0, self._resume_at - self.clock()) if self.failures else 0.0

    def succeeded(self, network_seconds: float | None = None) -> None:
        """Record an answer; `network_seconds` is the wait less the cloud's own duration
        (minimum-filtered).
        """
        self.failures = 0
        self.last_failure = None
        if network_seconds is not None and network_seconds > 0:
            known = self.round_trip_seconds
            # The minimum holds off queueing; drifting up by 1 % an answer follows a path that got
            # longer.
            self.round_trip_seconds = (
                network_seconds if known is None else min(network_seconds, known * 1.01)
            )

    def failed(self, reason: str) -> None:
        """Record that no usable answer came; what fails while the link rests is the same outage."""
        if self.failures and self.clock() < self._resume_at:
            return
        self.failures += 1
        self.last_failure = reason
        pause = self.first_pause_seconds * 2 ** min(self.failures - 1, 16)
        self._resume_at = self.clock() + min(pause, self.longest_pause_seconds)
