"""A threshold of the highest probability for each exit: an early exit is wrong about itself in
another way than a late one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.exits.policy import Asked, Policy, Thresholds, require_thresholds


@dataclass(frozen=True, slots=True)
class PerExit(Policy):
    """`thresholds` of the highest probability, by layer: 0 keeps every token, 1 none."""

    thresholds: Thresholds

    def __post_init__(self) -> None:
        require_thresholds(self.thresholds)

    def keeps(self, asked: Sequence[Asked], history: Any) -> bool:
        """Whether the exit asked last is over its threshold."""
        last = asked[-1]
        return last.signals.top > self.thresholds[last.layer]
