"""What the edge knows of the path to the cloud: round-trip estimate, failures, and a circuit
breaker over all replicas together.

After a failure the link is closed to new tries for a while that doubles with every further one;
then the next tries decide. Never subtracts one machine's clock from the other's.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from services.edge.bandwidth import Bandwidth
from shared.runtime.breaker import Breaker

# Answers whose least wait is taken for the round trip.
RECENT_ANSWERS = 12

State = Literal["unknown", "reachable", "lost", "unfit"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Link(Breaker):
    """The state of the path to one cloud; every change of it is logged, once."""

    unfit: str | None = None
    locked_out: bool = False  # only the key does not fit
    cloud_format: str | None = None
    cloud_modes: tuple[str, ...] | None = None
    round_trip_seconds: float | None = None
    bandwidth: Bandwidth = field(default_factory=Bandwidth)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_ANSWERS))
    _lost_at: float = field(default=0.0)
    _told: tuple[State, str | None] = field(default=("unknown", None))

    @property
    def state(self) -> State:
        """What is known of the cloud; `unknown` until it has shown itself once."""
        if self.unfit is not None:
            return "unfit"
        if self.failures:
            return "lost"
        return "reachable" if self.cloud_format else "unknown"

    @property
    def misfit(self) -> bool:
        """Whether no key would make them fit."""
        return self.unfit is not None and not self.locked_out

    @property
    def usable(self) -> bool:
        """Whether a request may be tried now."""
        return self.unfit is None and self.rested

    @property
    def up(self) -> bool:
        """Whether the last thing known of the cloud is good."""
        return self.unfit is None and self.failures == 0

    def succeeded(self, network_seconds: float | None = None) -> None:
        """Record an answer; `network_seconds` is the wait less the cloud's own duration
        (minimum-filtered).
        """
        Breaker.succeeded(self)
        if network_seconds is not None and network_seconds > 0:
            # The least of a few holds off queueing, and follows a path that got longer.
            self._recent.append(network_seconds)
            self.round_trip_seconds = min(self._recent)
        self._tell()

    def carried(self, count: int, sent: float, answered: float, cloud_seconds: float) -> None:
        """Record that a body of `count` bytes was answered, moments on one clock."""
        way = self.round_trip_seconds or 0.0
        self.bandwidth.answered(count, sent, answered - cloud_seconds - way)

    def welcomed(self, compute_format: str, modes: Sequence[str]) -> None:
        """Record that the cloud showed itself and fits this edge."""
        self.unfit, self.locked_out = None, False
        self.cloud_format = compute_format
        self.cloud_modes = tuple(modes)

    def refused(self, difference: str, *, locked_out: bool = False) -> None:
        """Record that edge and cloud do not fit, or their keys; only a cloud that fits ends it."""
        self.unfit, self.locked_out = difference, locked_out
        self._tell()

    def failed(self, reason: str) -> bool:
        """Record that no usable answer came; what fails while the link rests is the same outage."""
        news = Breaker.failed(self, reason)
        if news:
            self._tell()
        return news

    def _tell(self) -> None:
        """Log the state where it is another than the one logged last."""
        state, before = self.state, self._told[0]
        told = (state, self.unfit)
        if told == self._told:
            return
        self._told = told
        if state == "unfit":
            _log.error("the cloud does not fit this edge", extra={"reason": self.unfit})
        elif state == "lost":
            self._lost_at = self.clock()
            _log.warning("the cloud is lost", extra={"reason": self.last_failure})
        elif before == "lost":
            away = round(self.clock() - self._lost_at, 3)
            _log.info("the cloud is back", extra={"lost_seconds": away})
        else:
            _log.info("the cloud is reachable")
