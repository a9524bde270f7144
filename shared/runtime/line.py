"""A straight line through what was measured, forgetting slowly: what one more of something costs
where every measurement has a part that is the same each time.
"""

from dataclasses import dataclass

# Half of what was seen is forgotten after about 140 measurements.
_KEPT = 0.995
# No line is drawn through places that differ by less than this share of their mean.
_SPREAD = 0.1


@dataclass(slots=True)
class Line:
    """Weighted least squares of `y` over `x`; `slope` stays as it is while all `x` are alike."""

    slope: float = 0.0
    _weight: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def take(self, x: float, y: float) -> None:
        """Take in a measurement; a slope below 0 counts as 0."""
        self._weight = self._weight * _KEPT + 1
        self._x = self._x * _KEPT + x
        self._y = self._y * _KEPT + y
        self._xx = self._xx * _KEPT + x * x
        self._xy = self._xy * _KEPT + x * y
        mean = self._x / self._weight
        spread = self._xx / self._weight - mean * mean
        if spread > (_SPREAD * mean) ** 2:
            both = self._xy / self._weight - mean * self._y / self._weight
            self.slope = max(0.0, both / spread)

    def at(self, x: float) -> float:
        """What `x` is expected to take; 0 before anything was seen."""
        if not self._weight:
            return 0.0
        return self._y / self._weight + self.slope * (x - self._x / self._weight)
