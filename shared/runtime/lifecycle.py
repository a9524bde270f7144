"""The end of a service, in one place: told to leave, it says so, serves on for a while, closes, and
gives what is under way a last time to end.

Load balancers and peers learn late that a process ends: a pod's address is taken out of its Service
while the pod already has its signal (Kubernetes, "Termination of Pods"). Knows no server and no
HTTP.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

# A Ctrl-C reaches a process from its terminal and, through whoever started it, once more.
ONE_TELLING_SECONDS = 1.0
# After the grace time: for what is cut short to say so, and for goodbyes.
LAST_SECONDS = 1


@dataclass(slots=True)
class Lifecycle:
    """Where a service stands between its start and its end; told by a signal, read by all.

    Args:
        drain_seconds: how long a service that is leaving takes new requests.
        grace_seconds: how long requests under way may take after that.
        clock: seconds, monotonic.
    """

    drain_seconds: float = 0.0
    grace_seconds: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _left: float | None = None

    def leave(self) -> bool:
        """Begin to end. False where that was told before, and is now told with emphasis."""
        now = self.clock()
        if self._left is None:
            self._left = now
        return now - self._left < ONE_TELLING_SECONDS

    @property
    def draining(self) -> bool:
        """Whether it was told to leave: whoever can should turn to another."""
        return self._left is not None

    @property
    def closing(self) -> bool:
        """Whether it takes no new requests any more."""
        return self._since_left >= self.drain_seconds

    @property
    def over(self) -> bool:
        """Whether requests under way have had all their time."""
        return self._since_left >= self.drain_seconds + self.grace_seconds

    @property
    def seconds_left(self) -> float:
        """What of the grace time is left; all of it before `closing`."""
        if self._left is None:
            return self.grace_seconds
        spent = max(0.0, self._since_left - self.drain_seconds)
        return max(0.0, self.grace_seconds - spent)

    @property
    def _since_left(self) -> float:
        return float("-inf") if self._left is None else self.clock() - self._left
