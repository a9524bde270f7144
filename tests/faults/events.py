"""What can happen in a scenario."""

import signal
import threading
from dataclasses import dataclass
from enum import Enum

from tests.faults.moments import Moment, Seen
from tests.faults.scenario import Point
from tests.faults.stack import Stack
from tests.faults.toxics import Cut, Deed


class Whom(Enum):
    """Who is struck: the replica the frame is of, another one, or all of them."""

    OWNER = "owner"
    ALL = "all replicas"

    def of(self, stack: Stack, seen: Seen) -> list[int]:
        """Their numbers."""
        return [seen.replica] if self is Whom.OWNER else list(range(len(stack.clouds)))


@dataclass(frozen=True, slots=True)
class Kill:
    """kill -9, and the frame is lost with the process. What was `HEARD` has come through."""

    at: Point
    moment: Moment = Moment.DECIDED
    whom: Whom = Whom.OWNER
    revive: bool = False  # start it again at once, in the background

    def strike(self, stack: Stack, seen: Seen) -> Deed | None:
        """Kill, then lose the frame."""
        for replica in self.whom.of(stack, seen):
            stack.kill(replica)
        if self.revive:
            threading.Thread(target=stack.revive, daemon=True).start()
        return Cut()


@dataclass(frozen=True, slots=True)
class Do:
    """A deed to the one frame."""

    at: Point
    deed: Deed
    moment: Moment = Moment.DECIDED

    def strike(self, stack: Stack, seen: Seen) -> Deed | None:
        """Nothing but the deed."""
        del stack, seen
        return self.deed


@dataclass(frozen=True, slots=True)
class Part:
    """The network between the edge and the owner falls silent, both ways."""

    at: Point
    moment: Moment = Moment.DECIDED

    def strike(self, stack: Stack, seen: Seen) -> Deed | None:
        """From this frame on."""
        stack.proxy.ports[seen.replica].parted = True
        return None


@dataclass(frozen=True, slots=True)
class LoseRedis:
    """Redis is killed and comes back, with its data or without; `for_good`: it stays away."""

    at: Point
    moment: Moment = Moment.DECIDED
    with_data: bool = True
    for_good: bool = False

    def strike(self, stack: Stack, seen: Seen) -> Deed | None:
        """The frame itself goes on."""
        del seen
        assert stack.redis is not None
        if self.for_good:
            stack.redis.kill()
            stack.redis_dead = True
        else:
            stack.redis.restart(with_data=self.with_data)
        return None


@dataclass(frozen=True, slots=True)
class Drain:
    """The owner gets SIGTERM; the frame itself goes on."""

    at: Point
    moment: Moment = Moment.DECIDED

    def strike(self, stack: Stack, seen: Seen) -> Deed | None:
        """Told, not killed."""
        stack.clouds[seen.replica].tell(signal.SIGTERM)
        return None
