"""One threshold for all exits, as CE-CoLLM has it (arXiv 2411.02829): keep where the highest
probability is over it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.exits.policy import Asked, Policy, require_thresholds


@dataclass(frozen=True, slots=True)
class Single(Policy):
    """`threshold` of the highest probability: 0 keeps every token, 1 none."""

    threshold: float

    def __post_init__(self) -> None:
        require_thresholds({0: self.threshold})

    def keeps(self, asked: Sequence[Asked], history: Any) -> bool:
        """Whether the exit asked last is over the threshold."""
        return asked[-1].signals.top > self.threshold
