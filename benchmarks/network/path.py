"""When bytes put on an emulated path come out at its other end: arithmetic, no sockets.

A path has one direction. Its bandwidth is a token bucket shared by every connection on it, as a
link's is; what leaves the bucket arrives after the delay, jitter included.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

MEGABIT = 125_000.0  # bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """A network as asked for.

    Args:
        rtt_ms: round trip, half of it in each direction.
        jitter_ms: width of what is added to one direction's delay at random, uniformly about it.
        mbit_up, mbit_down: bandwidth towards and from the cloud; None for no limit.
        burst: bytes an idle bucket has saved up. At 0 every byte takes its time on the line, as it
            does on a real one; shapers of providers allow some packets.

    Raises:
        ValueError: a delay or bandwidth that cannot be, or jitter beyond the delay.
    """

    rtt_ms: float = 0.0
    jitter_ms: float = 0.0
    mbit_up: float | None = None
    mbit_down: float | None = None
    burst: int = 0

    def __post_init__(self) -> None:
        if self.rtt_ms < 0 or not 0 <= self.jitter_ms <= self.rtt_ms:
            raise ValueError("a round trip is 0 or more, and jitter between 0 and the round trip")
        if self.burst < 0 or any(rate <= 0 for rate in (self.mbit_up, self.mbit_down) if rate):
            raise ValueError("a bandwidth is above 0 (or none), and a burst 0 or more")


@dataclass(slots=True)
class Path:
    """One direction of an emulated network, for all its connections.

    Args:
        delay_seconds: from leaving the bucket to arriving.
        jitter_seconds: width of the uniform noise on it.
        bytes_per_second: None for no limit.
        burst: depth of the bucket in bytes.
    """

    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    bytes_per_second: float | None = None
    burst: int = 0
    nbytes: int = 0
    noise: Callable[[], float] = field(default_factory=lambda: random.Random(0).random)
    _free_at: float = 0.0

    def send(self, size: int, now: float) -> float:
        """Put `size` bytes on the path at `now`; return when the last of them arrives, were there
        no others of its connection before it.
        """
        self.nbytes += size
        jitter = (self.noise() - 0.5) * self.jitter_seconds
        return self._departure(size, now) + self.delay_seconds + jitter

    def backlog(self, now: float) -> float:
        """Seconds until what is waiting for bandwidth now will have left."""
        return max(0.0, self._free_at - now)

    def _departure(self, size: int, now: float) -> float:
        rate = self.bytes_per_second
        if rate is None:
            return now
        saved = self.burst / rate
        self._free_at = max(self._free_at, now - saved) + size / rate
        return max(now, self._free_at)


def paths(shape: Shape, *, less_delay: float = 0.0) -> tuple[Path, Path]:
    """The two directions of `shape`, towards the cloud and back.

    Args:
        less_delay: seconds a round trip through the proxy takes by itself, taken off the delay.
    """
    delay = max(0.0, shape.rtt_ms / 1e3 - less_delay) / 2

    def path(mbit: float | None) -> Path:
        rate = mbit * MEGABIT if mbit else None
        return Path(delay, shape.jitter_ms / 1e3, rate, shape.burst)

    return path(shape.mbit_up), path(shape.mbit_down)
