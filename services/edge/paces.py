"""Which of two plans takes less time, by what texts under them took.

Where time alone counts, the closed forms expect a race never to be slower than the cloud by itself.
They leave out what the edge and its drafts take from the cloud (cores, memory, the network), so the
clock decides. What the other plan took is forgotten after a while; it is then expected to be at
its best, and tried again where that would be better. Pure.
"""

from dataclasses import dataclass, field
from typing import Literal

Pair = Literal["race", "cloud"]
# The other must be better by this share to be taken up.
MARGIN = 0.03
# Texts after which what the other took is forgotten.
FORGOTTEN = 16
# Shorter texts say more of their begin than of their pace.
LEAST_TOKENS = 8
_WEIGHT = 0.25


@dataclass(slots=True)
class Pace:
    """How many tokens came after the first news of any, and in how many seconds."""

    tokens: int = 0
    seconds: float = 0.0
    _began: float | None = None

    def came(self, tokens: int, now: float) -> None:
        """Take in news of some tokens."""
        if self._began is None:
            self._began = now
            return
        self.tokens += tokens
        self.seconds = now - self._began


@dataclass(slots=True)
class Paces:
    """Seconds a token by plan.

    Attributes:
        current: what the next text goes by.
        step: of the cloud, seconds a token at least takes where it goes on by itself.
    """

    current: Pair = "race"
    step: float = 0.0
    _seconds: dict[Pair, float] = field(default_factory=dict)
    _since: int = 0

    def took(self, plan: Pair, tokens: int, seconds: float, *, step: float) -> None:
        """Take in a text of so many tokens after the first; `step` is the cloud's own time for one
        of them.
        """
        if tokens < LEAST_TOKENS:
            return
        pace = seconds / tokens
        known = self._seconds.get(plan, pace)
        self._seconds[plan] = known + _WEIGHT * (pace - known)
        self.step = step
        other: Pair = "cloud" if plan == "race" else "race"
        if other in self._seconds:
            self._since += 1
        if self._since >= FORGOTTEN:
            del self._seconds[other]
            self._since = 0
        self._choose()

    def _choose(self) -> None:
        # A race not tried of late may be worth anything, a cloud by itself no more than its steps.
        race = self._seconds.get("race", 0.0)
        cloud = self._seconds.get("cloud", self.step)
        best: Pair = "race" if race < cloud else "cloud"
        worth = {"race": race, "cloud": cloud}
        if best != self.current and worth[best] < worth[self.current] * (1 - MARGIN):
            self.current, self._since = best, 0
