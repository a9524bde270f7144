"""kill -9 of the replica that holds a session, at a token: the text is the uninterrupted one, and
the client notices a wait at most.
"""

from collections.abc import Callable, Mapping
from itertools import product

from tests.faults.conftest import StackOf
from tests.faults.events import Kill
from tests.faults.moments import Moment
from tests.faults.scenario import UNNOTICED, Point, Scenario, StallBelow, run
from tests.faults.stack import Plan
from tests.faults.wishes import CHOICES, WAYS, wish
from tests.support.results import Figure
from tests.support.size import Size

MOMENTS: Mapping[str, Moment] = {"unheard": Moment.DECIDED, "heard": Moment.HEARD}
STALL = StallBelow(5.0)


def scenarios(size: Size) -> dict[str, Scenario]:
    """At the first, the second, the middle and the last token, in every way to use the cloud,
    greedy and sampled, before the edge has heard of the token and after; in a short run every
    point in one of these.
    """
    found = {}
    for number, (point, moment) in enumerate(product(Point, MOMENTS)):
        for place, (way, choice) in enumerate(product(WAYS, CHOICES)):
            if size is Size.SHORT and place != (5 * number) % 12:
                continue
            name = f"{point.value} token, {moment}, {way}, {choice}"
            events = [Kill(point, MOMENTS[moment])]
            found[name] = Scenario(wish(way, choice), events, [*UNNOTICED, STALL])
    return found


def test_a_replica_killed(
    scenario: Scenario, stack_of: StackOf, record_figure: Callable[[str, Figure], None]
) -> None:
    outcome = run(scenario, stack_of(Plan()))
    record_figure("longest wait, s", round(outcome.got.stall, 3))
    record_figure("and uninterrupted", round(outcome.expected.stall, 3))
    record_figure("divergences", [*outcome.near_ties])
