"""Made-up traffic whose truth is known: requests of different difficulty, in which an exit is the
less often right, and the less sure of it, the more difficult they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from shared.exits.audit import Audited

LAYER = 3


@dataclass(frozen=True, slots=True)
class Ended:
    """A request as the audit sees it, and how many of its tail's tokens are wrong."""

    seen: Audited
    truth: int


@dataclass(slots=True)
class Traffic:
    """Requests under a threshold on the chance that the exit is right.

    Args:
        overrates: how much surer the exit is of its tokens than it has a right to be; 1 is not at
            all, 3 makes a wrong one three times as likely as it says.
        share: with which requests are chosen for an audit.
    """

    seed: int
    overrates: float = 1.0
    share: float = 0.05
    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def requests(self, thresholds: Mapping[int, float]) -> Iterator[Ended]:
        """Yield requests without end; `thresholds` may be changed meanwhile."""
        while True:
            yield self._request(thresholds[LAYER])

    def _request(self, threshold: float) -> Ended:
        draw = self._random
        chosen = draw.random() < self.share
        length = 1 + min(300, int(draw.expovariate(1 / 40)))
        difficulty = draw.betavariate(0.6, 2.0)
        kept = wrong = before = wrong_before = 0
        for _ in range(length):
            chance = 1 - difficulty * draw.random() ** 3
            if chance > threshold:
                kept += 1
                wrong += draw.random() < (1 - chance) * self.overrates
            else:
                before, wrong_before = kept, wrong
        tail_wrong = wrong - wrong_before
        seen = Audited(
            tokens=length,
            judged=before,
            wrong=wrong_before,
            tail=kept - before,
            tail_wrong=tail_wrong if chosen else None,
            share=self.share,
        )
        return Ended(seen, tail_wrong)
