"""Works that wait, and an engine that runs what a schedule chooses of them."""

from collections import Counter
from dataclasses import dataclass, field

from shared.runtime.schedule import Schedule, is_short
from shared.runtime.work import Claim, Priority

EMERGENCY: Priority = "emergency"


@dataclass(eq=False)
class Wait:
    """A work that waits."""

    rows: int = 1
    claim: Claim = field(default_factory=Claim)
    since: float = 0.0


def waits(count: int, rows: int = 1, **claim: str) -> list[Wait]:
    return [Wait(rows, Claim(**claim)) for _ in range(count)]  # type: ignore[arg-type]


@dataclass
class Engine:
    """Runs what a schedule chooses, a second a step, and keeps what it saw."""

    schedule: Schedule
    now: float = 0.0
    waiting: list[Wait] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0

    def step(self) -> list[int]:
        given = self.schedule.share(self.waiting, self.now)
        assert len(given) == len(self.waiting)
        assert 0 < sum(given) <= self.schedule.most
        batch = [(w, rows) for w, rows in zip(self.waiting, given, strict=True) if rows]
        shares = [(w.claim, rows, is_short(w.rows)) for w, rows in batch]
        for work, rows in batch:
            assert rows <= work.rows
            self.longest = max(self.longest, self.now - work.since)
        self.now += 1
        self.schedule.ran(shares, 1.0, self.now)
        for work, rows in batch:
            work.rows -= rows
            work.since = self.now
            self.served[work.claim.client] += rows
        self.waiting = [work for work in self.waiting if work.rows]
        return given
