"""Other ways to lose a replica: all of them killed at once, the network to one fallen silent, one
told to leave.
"""

from collections.abc import Callable
from itertools import product

from tests.faults.client import tell
from tests.faults.conftest import StackOf
from tests.faults.events import Drain, Kill, Part, Whom
from tests.faults.moments import Moment, Seen
from tests.faults.scenario import (
    UNNOTICED,
    Outcome,
    Point,
    Scenario,
    StallBelow,
    run,
)
from tests.faults.stack import EDGE, Plan
from tests.faults.toxics import Deed
from tests.faults.wishes import WAYS, wish
from tests.support.apps import PATIENCE
from tests.support.results import Figure
from tests.support.size import Size

Record = Callable[[str, Figure], None]
DEGRADING = ("collaborative", "repair")


def degraded(outcome: Outcome) -> None:
    """The edge goes on by itself, and says so."""
    got = outcome.got
    assert got.error is None, got.error
    assert len(got.ids) == len(outcome.expected.ids)
    assert "fallback" in got.sources
    assert got.details["degraded"]
    assert not got.details["exact"]


def broken_off(outcome: Outcome) -> None:
    """The tokens that came are right, and an event says why no more do; before the first token it
    is a 503.
    """
    got = outcome.got
    assert got.error is not None
    assert got.error["error_type"] == "cloud_lost"
    assert got.ids == outcome.expected.ids[: len(got.ids)]
    if not got.ids:
        assert got.status == 503
        assert int(got.headers["retry-after"]) >= 1


def scenarios(size: Size) -> dict[str, Scenario]:
    """All killed at the first token or in the middle, in every way to use the cloud; in a short run
    at one of them every other.
    """
    found = {}
    for place, way in enumerate(WAYS):
        for number, point in enumerate((Point.FIRST, Point.MIDDLE)):
            if size is Size.SHORT and (place + 3 * number) % 4:
                continue
            end = degraded if way in DEGRADING else broken_off
            found[f"{point.value} token, {way}"] = Scenario(
                wish(way), [Kill(point, whom=Whom.ALL)], [end]
            )
    return found


def test_all_replicas_killed(scenario: Scenario, stack_of: StackOf) -> None:
    """`collaborative` degrades, the others end with an error; afterwards all is as before."""
    stack = stack_of(Plan())
    asked = scenario.wish
    run(scenario, stack)
    gone = tell(stack.edge.url, asked)
    if asked.parameters["mode"] == "collaborative":
        assert gone.details["degraded"]
    else:
        assert gone.status == 503
        assert int(gone.headers["retry-after"]) >= 1
    run(Scenario(asked, []), stack)


def test_a_text_recovers_when_the_replicas_come_back(stack_of: StackOf) -> None:
    """Killed and started again while one long text is made: the cloud decides some of its end. The
    text takes longer than a slow machine's start of the replicas.
    """
    stack = stack_of(Plan())
    stack.restore()
    kill = Kill(Point.FIRST, whom=Whom.ALL, revive=True)

    def hook(seen: Seen) -> Deed | None:
        stack.proxy.hook = None
        return kill.strike(stack, seen)

    stack.proxy.forget()
    stack.proxy.hook = hook
    told = tell(stack.edge.url, wish("collaborative", tokens=1500))
    assert told.error is None
    assert told.details["degraded"]
    assert len(told.ids) == 1500
    assert "cloud" in told.sources[told.sources.index("fallback") :]


def test_a_replica_parted_from_the_edge(
    stack_of: StackOf, size: Size, record_figure: Record
) -> None:
    """Silence is noticed by the time-out, or by a look that is not answered before it."""
    check = StallBelow(float(EDGE["cloud_timeout_seconds"]) + 3)
    cases = list(product(WAYS, (Moment.REQUEST, Moment.DECIDED)))
    for way, moment in cases[:: size.pick(short=7, long=1)]:
        # A stream asks only once.
        once = way == "cloud" and moment is Moment.REQUEST
        events = [Part(Point.FIRST if once else Point.SECOND, moment)]
        outcome = run(Scenario(wish(way), events, [*UNNOTICED, check]), stack_of(Plan()))
        record_figure(f"{way}, {moment.value}: longest wait, s", round(outcome.got.stall, 3))


def test_a_replica_told_to_leave(stack_of: StackOf, size: Size, record_figure: Record) -> None:
    """SIGTERM in the middle of a text: the text goes on, here or elsewhere, and the process ends by
    itself with exit code 0.
    """
    stack = stack_of(Plan())
    for way in list(WAYS)[:: size.pick(short=5, long=1)]:
        stack.restore()
        try:
            outcome = run(Scenario(wish(way), [Drain(Point.SECOND)]), stack)
            (code,) = (stack.clouds[seen.replica].wait(PATIENCE) for _, seen in outcome.struck)
        finally:
            stack.bury()
        assert code == 0
        record_figure(f"{way}: longest wait, s", round(outcome.got.stall, 3))
