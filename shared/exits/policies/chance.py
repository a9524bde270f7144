"""A threshold for each exit of the calibrated chance that the full model agrees."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.exits.policy import Asked, Policy, Thresholds, require_thresholds


@dataclass(frozen=True, slots=True)
class Chance(Policy):
    """`thresholds` of the chance, by layer; 1 keeps no token."""

    needs_chance = True

    thresholds: Thresholds

    def __post_init__(self) -> None:
        require_thresholds(self.thresholds)

    def keeps(self, asked: Sequence[Asked], history: Any) -> bool:
        """Whether the exit asked last is over its threshold.

        Raises:
            ValueError: it was not calibrated.
        """
        last = asked[-1]
        if last.chance is None:
            raise ValueError(f"exit {last.layer} is not calibrated, and the policy is chance")
        return last.chance > self.thresholds[last.layer]
