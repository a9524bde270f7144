"""What the proxy can do to what passes: a `Shape` to everything, a deed to one frame.

The names of the shapes are toxiproxy's: latency and jitter, bandwidth, slicer.
"""

import random
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(slots=True)
class Shape:
    """How bytes travel, both ways.

    Args:
        delay: seconds before a request goes up, and before each piece of its answer comes down.
        jitter: up to so many seconds more or less, drawn with `seed`.
        bandwidth: bytes a second; 0 is no limit.
        slice: bytes of a write; 0 writes all at once.
    """

    delay: float = 0.0
    jitter: float = 0.0
    bandwidth: float = 0.0
    slice: int = 0
    seed: int = 0
    _draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)

    def wait(self, size: int) -> float:
        """Seconds before `size` bytes are through."""
        lag = self.delay + self.jitter * self._draw.uniform(-1, 1)
        return max(0.0, lag) + (size / self.bandwidth if self.bandwidth else 0.0)


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection ends, after `share` of the frame's bytes: by a reset, or by a close."""

    share: float = 0.0
    reset: bool = True


@dataclass(frozen=True, slots=True)
class Silence:
    """Neither this frame nor anything after it comes through on this connection."""


class When(StrEnum):
    """When a copy of a request is delivered; its answer goes nowhere."""

    BEFORE = "before it"
    WITH = "at the same time"
    AFTER = "after its answer"
    LATE = "tokens later"


@dataclass(frozen=True, slots=True)
class Copy:
    """A request is delivered once more, to the same replica or to `another`; `tokens` later."""

    when: When
    another: bool = False
    tokens: int = 0


Deed = Cut | Silence | Copy
