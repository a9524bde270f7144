"""A scenario: a request, what happens at which of its tokens, and what must hold of its answer.

Events and checks are declared (the shape of Dynamo's fault-tolerance tests); `run` carries a
scenario out on a running stack.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from tests.faults.client import Told, tell
from tests.faults.moments import Moment, Seen
from tests.faults.stack import Plan, Stack
from tests.faults.toxics import Deed, Shape
from tests.support.wishes import Wish, require_same


class Point(Enum):
    """Which of the tokens the cloud decides, in the uninterrupted run."""

    FIRST = "first"
    SECOND = "second"
    MIDDLE = "middle"
    LAST = "last"

    def of(self, tokens: Sequence[int]) -> int:
        """That token's index."""
        least = 1 if self is Point.FIRST else 4
        assert len(tokens) >= least, f"the cloud is heard only at tokens {tokens}"
        at = {Point.FIRST: 0, Point.SECOND: 1, Point.MIDDLE: len(tokens) // 2, Point.LAST: -1}
        return tokens[at[self]]


class Event(Protocol):
    """Something that happens once, when the proxy holds the frame of a token."""

    @property
    def at(self) -> Point:
        """At which token."""

    @property
    def moment(self) -> Moment:
        """Where its frame is."""

    def strike(self, stack: Stack, seen: Seen) -> Deed | None:
        """Make it happen, in the proxy's thread; what becomes of the frame."""


@dataclass(slots=True)
class Outcome:
    """A scenario's answer beside the uninterrupted one; `struck` are the events that happened."""

    wish: Wish
    expected: Told
    got: Told
    struck: list[tuple[Event, Seen]] = field(default_factory=list)
    near_ties: list[str] = field(default_factory=list)


class Check(Protocol):
    """Something that must hold of an outcome."""

    def __call__(self, outcome: Outcome) -> None:
        """Raise AssertionError where it does not."""


def no_error(outcome: Outcome) -> None:
    """The client sees no error, and nothing in place of the cloud's tokens."""
    got = outcome.got
    assert got.error is None, got.error
    assert got.status == 200
    assert "fallback" not in got.sources, got.sources
    assert not got.details["degraded"]


def same_tokens(outcome: Outcome) -> None:
    """The tokens are those of the uninterrupted run, up to a near tie of the full model."""
    decided_by = require_same(outcome.wish, outcome.expected.answer, outcome.got.answer)
    if decided_by is not None:
        outcome.near_ties.append(f"{outcome.wish}: margin {decided_by:.3g}")


@dataclass(frozen=True, slots=True)
class StallBelow:
    """No token comes more than so many seconds later than the one before it."""

    seconds: float

    def __call__(self, outcome: Outcome) -> None:
        """Compare the longest wait."""
        assert outcome.got.stall < self.seconds, f"a wait of {outcome.got.stall:.2f} s"


IN_MEMORY = Plan()
UNNOTICED: Sequence[Check] = (no_error, same_tokens)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is asked for, what happens, what must hold, and the stack it is for."""

    wish: Wish
    events: Sequence[Event]
    checks: Sequence[Check] = UNNOTICED
    plan: Plan = IN_MEMORY


def run(scenario: Scenario, stack: Stack, shape: Shape | None = None) -> Outcome:
    """Carry a scenario out, on lines of this shape; every event must have happened, and every
    check must hold.
    """
    stack.restore()
    alone = stack.uninterrupted(scenario.wish)
    waiting = [(event, event.at.of(_tokens(alone.seen, event.moment))) for event in scenario.events]
    outcome = Outcome(scenario.wish, alone.told, Told())

    def hook(seen: Seen) -> Deed | None:
        for event, token in waiting:
            if seen.moment is event.moment and seen.token >= token:
                waiting.remove((event, token))
                outcome.struck.append((event, seen))
                return event.strike(stack, seen)
        return None

    stack.proxy.forget()
    stack.proxy.hook = hook
    for port in stack.proxy.ports:
        port.shape = shape or Shape()
    try:
        outcome.got = tell(stack.edge.url, scenario.wish)
    finally:
        stack.proxy.hook = None
    assert not waiting, f"never happened: {waiting}; answered {outcome.got}"
    for check in scenario.checks:
        check(outcome)
    return outcome


def _tokens(seen: dict[Moment, list[int]], moment: Moment) -> Sequence[int]:
    return seen[Moment.DECIDED if moment is Moment.HEARD else moment]
