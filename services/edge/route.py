"""One session's way to the cloud: the replica it is at, when it goes on at another, and how often a
request that failed is sent again.

Retries are bounded by count, by a deadline and by a budget all sessions share, so that an edge does
not add its own storm to a cloud in trouble (gRPC A6; Envoy's retry budgets).
"""

import asyncio
import time
from dataclasses import dataclass, field

import httpx

from services.edge.replicas import Replica, Replicas
from shared.errors import CloudLost
from shared.runtime.breaker import jittered

# A request to the only replica is sent once more before the cloud counts as lost.
RETRIES = 1
# To several, so many times more for each: one may end while another comes back.
ROUNDS = 3
# What every request that was answered adds to the budget, of what one retry takes.
EARNED = 0.2
# Pauses once every replica has had its turn.
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 1.0
# What the last try gets, however late it is.
LEAST_SECONDS = 0.1
# Reasons that asking the same replica again does not help against.
_LASTING = ("timeout", "overloaded", "out_of_memory", "unauthorized", "forbidden")


@dataclass(slots=True)
class RetryBudget:
    """How many retries all sessions together have left: answers earn some, up to `most`."""

    most: float = 10.0
    left: float = field(default=-1.0)

    def __post_init__(self) -> None:
        if self.left < 0:
            self.left = self.most

    def earn(self) -> None:
        """Record an answer."""
        self.left = min(self.most, self.left + EARNED)

    def spend(self) -> bool:
        """Take one retry; false where none is left."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass(slots=True)
class Route:
    """Where one session is, and was.

    Args:
        key: sessions of one key begin at the same replica.
        seconds: the most a need may take, all its retries together.
    """

    replicas: Replicas
    key: str
    budget: RetryBudget = field(default_factory=RetryBudget)
    seconds: float = 30.0
    visited: "list[Replica]" = field(default_factory=list)
    turned_away: bool = False  # the replica it is at leaves, and does not know the session
    _at: "Replica | None" = None

    async def here(self) -> Replica:
        """The replica the session is at; it begins at the first of its order.

        Raises:
            CloudLost: no name has an address.
        """
        if self._at is None:
            try:
                at = await self.replicas.pick(self.key, self.visited[-1:])
            except httpx.ConnectError as error:
                raise CloudLost(f"the cloud: {error}", reason="refused") from error
            if self._at is None:  # nobody else has picked meanwhile
                self._at = at
                at.sessions += 1
                if at not in self.visited:
                    self.visited.append(at)
        return self._at

    @property
    def better_elsewhere(self) -> bool:
        """Whether the replica is down or leaving, and another rather to be tried; any other, where
        this one takes no new session.
        """
        at, known = self._at, self.replicas.known
        if at is None:
            return False
        if at not in known:
            return bool(known)
        if self.turned_away:
            return any(each is not at and each.unfit is None for each in known)
        return not at.serves and any(each.reluctance < at.reluctance for each in known)

    def leave(self) -> None:
        """Go on elsewhere with the next request, or be over."""
        self.turned_away = False
        if self._at is not None:
            self._at.sessions -= 1
            self.visited = [
                *(each for each in self.visited if each is not self._at),
                self._at,
            ]
            self._at = None

    @property
    def partings(self) -> "list[Replica]":
        """The replicas to close the session at, the one it was at last behind the others. One that
        has handed it on and is about to end forgets it without being told.
        """
        return [each for each in self.visited if each is self.visited[-1] or not each.leaving]

    def tries(self) -> "Tries":
        """The tries of a need that begins now."""
        return Tries(self, time.monotonic() + self.seconds)


@dataclass(slots=True)
class Tries:
    """How often one need has been sent in vain."""

    route: Route
    deadline: float
    made: int = 0

    @property
    def left(self) -> float:
        """Seconds this need may still take; a little at least."""
        return max(LEAST_SECONDS, self.deadline - time.monotonic())

    async def again(self, error: CloudLost) -> None:
        """Return when the need is to be sent again: at once, and after pauses when every replica
        has had it twice; where the cloud has named a time for this edge, not before.

        Raises:
            CloudLost: `error`, where it is not to be.
        """
        replicas = self.route.replicas
        count = max(1, len(replicas.known))
        lasting = error.reason in _LASTING and not replicas.serving
        late = time.monotonic() >= self.deadline
        most = RETRIES if count == 1 else ROUNDS * count
        if lasting or late or self.made >= most or not self.route.budget.spend():
            raise error
        self.made += 1
        if error.reason == "limited":
            if time.monotonic() + (error.retry_after or 0.0) >= self.deadline:
                raise error
            await asyncio.sleep(error.retry_after or 0.0)
        elif self.made >= 2 * count:
            pause = FIRST_PAUSE_SECONDS * 2 ** (self.made - 2 * count)
            await asyncio.sleep(min(pause, LONGEST_PAUSE_SECONDS) * jittered())

    def answered(self) -> None:
        """Record that the need has gone on: what fails next is another trouble."""
        self.made = 0
        self.deadline = time.monotonic() + self.route.seconds
        self.route.budget.earn()
