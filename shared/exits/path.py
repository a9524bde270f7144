"""From "keep nothing" to "keep everything" through the thresholds that were calibrated.

A place on the path is a level: the disagreement that its thresholds promised on the calibration
text. 0 keeps nothing, 1 keeps everything.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log


@dataclass(frozen=True, slots=True)
class Point:
    """Thresholds by exit (an exit keeps a token above its own) that keep disagreement within
    `level`.
    """

    level: float
    thresholds: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Path:
    """Points with rising levels in (0, 1), all of the same exits.

    Raises:
        ValueError: there is none, the levels do not rise, or the exits differ.
    """

    points: Sequence[Point]

    def __post_init__(self) -> None:
        levels = [point.level for point in self.points]
        if not levels or not levels[0] > 0 or not levels[-1] < 1:
            raise ValueError(f"levels lie between 0 and 1, not {levels}")
        if any(low >= high for low, high in pairwise(levels)):
            raise ValueError(f"levels rise, unlike {levels}")
        if any(set(point.thresholds) != set(self.points[0].thresholds) for point in self.points):
            raise ValueError("every level has a threshold for every exit")

    def at(self, level: float) -> Mapping[int, float]:
        """The thresholds of a level: between points along the logarithm of levels, below the first
        one along the levels themselves, down to thresholds of 1.
        """
        first, last = self.points[0], self.points[-1]
        if level < first.level:
            part = max(0.0, level) / first.level
            return _between(Point(0.0, dict.fromkeys(first.thresholds, 1.0)), first, part)
        if level >= 1:
            return dict.fromkeys(first.thresholds, 0.0)
        place = bisect_right(self.points, level, key=lambda point: point.level)
        low = self.points[place - 1]
        nothing = Point(1.0, dict.fromkeys(last.thresholds, 0.0))
        high = self.points[place] if place < len(self.points) else nothing
        return _between(low, high, log(level / low.level) / log(high.level / low.level))

    def held(self, target: float, level: float) -> Mapping[int, float]:
        """The thresholds of a level at or below `target`, by which the target is held on harder
        text: none is below the target's own. A lower level may ask less of one exit where it asks
        more of another, and what proved too bold is not answered by opening an exit.
        """
        least, thresholds = self.at(target), self.at(level)
        return {layer: max(least[layer], thresholds[layer]) for layer in least}


def _between(low: Point, high: Point, part: float) -> Mapping[int, float]:
    return {
        layer: threshold + part * (high.thresholds[layer] - threshold)
        for layer, threshold in low.thresholds.items()
    }
