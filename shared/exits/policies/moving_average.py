"""A threshold for each exit of its confidence averaged over the text, and hysteresis: after some
unsure tokens in a row, those that follow are the cloud's for a while.

One confident token in the middle of a hard passage is often wrong, and a cloud that has been asked
once has caught up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.exits.policy import Asked, Policy, Thresholds, require_thresholds


@dataclass(frozen=True, slots=True)
class Trail:
    """`averages` of the exits by rising layer, unsure tokens in a row, and tokens still to stay
    with the cloud.
    """

    averages: tuple[tuple[int, float], ...] = ()
    unsure: int = 0
    staying: int = 0


@dataclass(frozen=True, slots=True)
class MovingAverage(Policy):
    """Keep where an exit's average is over its threshold; after `unsure` tokens in a row that no
    exit kept, keep none of the next `stay`.

    The average is exponential: the newest confidence (calibrated where the exit is) counts for
    `newest`, the average before it for the rest; at an exit's first token it is the confidence.
    """

    thresholds: Thresholds
    newest: float = 0.7
    unsure: int = 2
    stay: int = 2

    def __post_init__(self) -> None:
        require_thresholds(self.thresholds)
        if not 0 < self.newest <= 1:
            raise ValueError(f"newest is {self.newest}; allowed: 0 < x <= 1")
        if self.unsure < 1 or self.stay < 0:
            raise ValueError(
                f"unsure is {self.unsure} and stay is {self.stay}; allowed: 1 or more, 0 or more"
            )

    def start(self) -> Trail:
        """Nothing has been said."""
        return Trail()

    def keeps(self, asked: Sequence[Asked], history: Trail) -> bool:
        """Whether the average of the exit asked last is over its threshold, where none stays."""
        last = asked[-1]
        return not history.staying and self._average(last, history) > self.thresholds[last.layer]

    def after(self, history: Trail, asked: Sequence[Asked]) -> Trail:
        """Averages of the exits asked go on; those of others stay as they are."""
        if not asked:
            return history
        averages = dict(history.averages)
        averages |= {each.layer: self._average(each, history) for each in asked}
        unsure, staying = 0, 0
        if history.staying:
            staying = history.staying - 1
        elif not self.keeps(asked, history):
            unsure = history.unsure + 1
            if unsure == self.unsure:
                unsure, staying = 0, self.stay
        return Trail(tuple(sorted(averages.items())), unsure, staying)

    def _average(self, asked: Asked, history: Trail) -> float:
        before = dict(history.averages).get(asked.layer, asked.confidence)
        return before + self.newest * (asked.confidence - before)
