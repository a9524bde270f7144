"""Requests that come twice, late, or to two replicas at once: the answer is the same, or the copy
is refused.
"""

import time
from collections.abc import Mapping

import pytest

from shared.protocol.messages import Fault
from shared.protocol.wire import decode, frame_length
from tests.faults.conftest import StackOf
from tests.faults.events import Do, Kill
from tests.faults.moments import LIMIT, Moment
from tests.faults.proxy import FaultProxy, Stray
from tests.faults.scenario import Point, Scenario, run
from tests.faults.stack import Plan
from tests.faults.toxics import Copy, When
from tests.faults.wishes import CHOICES, WAYS, wish
from tests.support.apps import PATIENCE
from tests.support.size import Size

COPIES: Mapping[str, Copy] = {
    "before itself": Copy(When.BEFORE),
    "with itself": Copy(When.WITH),
    "after its answer": Copy(When.AFTER),
    "one token late": Copy(When.LATE, tokens=1),
    "six tokens late": Copy(When.LATE, tokens=6),
    "at another replica before": Copy(When.BEFORE, another=True),
    "at two replicas at once": Copy(When.WITH, another=True),
    "at another replica after": Copy(When.AFTER, another=True),
}
PLANS = {"memory": Plan(), "Redis": Plan(redis=True)}


def scenarios(size: Size) -> dict[str, Scenario]:
    """Every copy in every way to use the cloud, with either store; in a short run every copy in one
    way, with both stores where it goes to another replica.
    """
    found = {}
    for number, (name, copy) in enumerate(COPIES.items()):
        for place, way in enumerate(WAYS):
            if size is Size.SHORT and place != number % len(WAYS):
                continue
            choice = list(CHOICES)[(number + place) // 2 % 2]
            point = Point.FIRST if way == "cloud" else Point.SECOND
            events = [Do(point, copy, Moment.REQUEST)]
            both = size is Size.LONG or copy.another
            for store in PLANS if both else list(PLANS)[number % 2 :][:1]:
                found[f"{name}, {way}, {store}"] = Scenario(
                    wish(way, choice), events, plan=PLANS[store]
                )
    return found


def refusal(stray: Stray) -> Fault | None:
    """What a copy was refused with, if it was."""
    if stray.status in (None, 200):
        return None
    message = decode(stray.body[: frame_length(stray.body, limit=LIMIT)], limit=LIMIT)
    assert isinstance(message, Fault)
    return message


def answered(proxy: FaultProxy) -> Stray:
    """The one copy, which may be on its way still when the text has ended."""
    deadline = time.monotonic() + PATIENCE
    while not (proxy.strays and all(stray.over for stray in proxy.strays)):
        assert time.monotonic() < deadline, proxy.strays
        time.sleep(0.01)
    (stray,) = proxy.strays
    return stray


def test_a_request_that_comes_twice(scenario: Scenario, stack_of: StackOf) -> None:
    stack = stack_of(scenario.plan)
    run(scenario, stack)
    refused = refusal(answered(stack.proxy))
    assert refused is None or refused.code in ("fenced", "conflict", "overloaded"), refused


@pytest.mark.parametrize("plan", PLANS)
def test_a_request_of_before_a_hand_over_is_fenced(
    plan: str, stack_of: StackOf, size: Size
) -> None:
    """It comes to where the session has gone on meanwhile."""
    stack = stack_of(PLANS[plan])
    late = Do(Point.FIRST, Copy(When.LATE, another=True, tokens=10), Moment.REQUEST)
    ways = ["verified states", "split"] if plan == "memory" else ["collaborative"]
    for way in size.pick(short=ways, long=["collaborative", "verified states", "split"]):
        # Where exits decide, tokens are heard of before one is asked for.
        kill = Kill(Point.FIRST, Moment.REQUEST if way == "collaborative" else Moment.DECIDED)
        run(Scenario(wish(way), [late, kill]), stack)
        refused = refusal(answered(stack.proxy))
        assert refused is not None
        assert (refused.code, refused.revision) == ("fenced", 1)
