"""What a byte takes on its way to the cloud, from requests that were answered.

Bodies leave one after the other, whatever their connections: the last byte of one had left when its
answer came, less the round trip and the cloud's own time; its first, when it was sent or, if that
was later, when the one before had left. Nothing but this machine's clock is read.
"""

import math
from dataclasses import dataclass

# Smaller bodies say more of the round trip than of the bandwidth.
_SMALLEST = 4096
_WEIGHT = 0.2


@dataclass(slots=True)
class Bandwidth:
    """`seconds_per_byte` is a moving average, 0 while nothing is known."""

    seconds_per_byte: float = 0.0
    _known: bool = False
    _free_at: float = -math.inf

    def answered(self, count: int, sent: float, left: float) -> None:
        """Take in a body of `count` bytes, sent and gone at these moments of one clock."""
        if count < _SMALLEST:
            return
        began = max(sent, self._free_at)
        self._free_at = max(self._free_at, left)
        seconds = max(0.0, left - began) / count
        weight = _WEIGHT if self._known else 1.0
        self._known = True
        self.seconds_per_byte += weight * (seconds - self.seconds_per_byte)
