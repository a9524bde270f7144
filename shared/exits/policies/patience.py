"""Keep where so many exits in a row choose the same token, however sure each of them is: PABEE
(arXiv 2006.04152, section 3.2), whose patience is one less than `exits`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.exits.policy import Asked, Policy


@dataclass(frozen=True, slots=True)
class Patience(Policy):
    """`exits` in a row must agree; with 1 the first one always stays, and with more than there
    are none ever does.
    """

    exits: int

    def __post_init__(self) -> None:
        if self.exits < 1:
            raise ValueError(f"exits is {self.exits}; allowed: 1 or more")

    def keeps(self, asked: Sequence[Asked], history: Any) -> bool:
        """Whether the last `exits` of them chose one token."""
        last = asked[-self.exits :]
        return len(last) == self.exits and len({each.token for each in last}) == 1
