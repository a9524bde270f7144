"""What a byte takes on its way to the cloud, from requests that were answered.

Bodies are taken to leave one after the other, whatever their connections: the last byte of one had
left when its answer came, less the round trip and the cloud's own time; its first, when it was sent
or, if that was later, when the one before had left. What any body takes, the small ones too, is not
the uplink's: the line through all of them tells the two apart. Nothing but this machine's clock is
read.
"""

import math
from dataclasses import dataclass, field

from shared.runtime.line import Line


@dataclass(slots=True)
class Bandwidth:
    """The uplink to one cloud."""

    _line: Line = field(default_factory=Line)
    _free_at: float = -math.inf

    @property
    def seconds_per_byte(self) -> float:
        """What one more byte takes; 0 while bodies have been of one size."""
        return self._line.slope

    def answered(self, count: int, sent: float, left: float) -> None:
        """Take in a body of `count` bytes, sent and gone at these moments of one clock."""
        began = max(sent, self._free_at)
        self._free_at = max(self._free_at, left)
        self._line.take(count, max(0.0, left - began))
