"""Replicas that share a store in Redis: a replica killed, Redis killed with its data or without, or
gone for good. The text is the same, and the client notices a wait at most.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

from tests.faults.conftest import StackOf
from tests.faults.events import Kill, LoseRedis
from tests.faults.moments import Moment
from tests.faults.scenario import UNNOTICED, Event, Point, Scenario, StallBelow, run
from tests.faults.stack import Plan
from tests.faults.wishes import CHOICES, WAYS, wish
from tests.support.results import Figure
from tests.support.size import Size

STALL = StallBelow(5.0)
MOMENTS: Mapping[str, Moment] = {"unheard": Moment.DECIDED, "heard": Moment.HEARD}
LOSSES: Mapping[str, Sequence[Event]] = {
    "Redis restarted": [LoseRedis(Point.SECOND)],
    "Redis emptied": [LoseRedis(Point.SECOND, with_data=False)],
    "Redis gone": [LoseRedis(Point.SECOND, for_good=True)],
    "Redis restarted, owner killed": [LoseRedis(Point.FIRST), Kill(Point.MIDDLE)],
    "Redis emptied, owner killed": [LoseRedis(Point.FIRST, with_data=False), Kill(Point.MIDDLE)],
    "Redis gone, owner killed": [LoseRedis(Point.FIRST, for_good=True), Kill(Point.MIDDLE)],
}


def scenarios(size: Size) -> dict[str, Scenario]:
    """The owner killed at every point, and every loss of Redis; in a short run a few of the
    kills, and each loss once.
    """
    found = {}
    for number, (point, moment) in enumerate(product(Point, MOMENTS)):
        for place, (way, choice) in enumerate(product(WAYS, CHOICES)):
            if size is Size.LONG or (number % 2 and place == (5 * number) % 12):
                events = [Kill(point, MOMENTS[moment])]
                name = f"{point.value} token, {moment}, {way}, {choice}"
                found[name] = Scenario(wish(way, choice), events, [*UNNOTICED, STALL])
    for number, (loss, lost) in enumerate(LOSSES.items()):
        for place, (way, choice) in enumerate(product(WAYS, CHOICES)):
            if size is Size.LONG or place == (7 * number) % 12:
                found[f"{loss}, {way}, {choice}"] = Scenario(
                    wish(way, choice), lost, [*UNNOTICED, STALL]
                )
    return found


def test_the_store_or_a_replica_lost(
    scenario: Scenario, stack_of: StackOf, record_figure: Callable[[str, Figure], None]
) -> None:
    outcome = run(scenario, stack_of(Plan(redis=True)))
    record_figure("longest wait, s", round(outcome.got.stall, 3))
    record_figure("divergences", [*outcome.near_ties])
