"""A network that is slow, narrow, choppy, or breaks connections: the same text, and no error."""

from collections.abc import Callable, Mapping
from itertools import product

import pytest

from tests.faults.conftest import StackOf
from tests.faults.events import Do
from tests.faults.moments import Moment
from tests.faults.scenario import Point, Scenario, run, same_tokens
from tests.faults.stack import Plan
from tests.faults.toxics import Cut, Deed, Shape
from tests.faults.wishes import CHOICES, WAYS, wish
from tests.support.results import Figure
from tests.support.size import Size

BREAKS: Mapping[str, Deed] = {
    "reset": Cut(),
    "closed": Cut(reset=False),
    "reset in mid-frame": Cut(0.5),
    "closed in mid-frame": Cut(0.5, reset=False),
}
SHAPES: Mapping[str, Shape] = {
    "delay and jitter": Shape(delay=0.03, jitter=0.02, seed=1),
    "narrow": Shape(bandwidth=2e6),
    "slices": Shape(slice=7),
}


def scenarios(size: Size) -> dict[str, Scenario]:
    """Every break, up and down, in every way to use the cloud, once in a text; in a short run each
    break in one of these.
    """
    found = {}
    breaks = enumerate(product(BREAKS, (Moment.REQUEST, Moment.DECIDED)))
    for number, (name, moment) in breaks:
        for at, way in enumerate(WAYS):
            if size is Size.SHORT and at != number % 6:
                continue
            choice = list(CHOICES)[(number // 2 + at) % 2]
            # A stream asks only once.
            point = Point.FIRST if moment is Moment.REQUEST else Point.MIDDLE
            going = "up" if moment is Moment.REQUEST else "down"
            events = [Do(point, BREAKS[name], moment)]
            found[f"{name}, going {going}, {way}"] = Scenario(wish(way, choice), events)
    return found


def test_a_connection_that_breaks(
    scenario: Scenario, stack_of: StackOf, record_figure: Callable[[str, Figure], None]
) -> None:
    outcome = run(scenario, stack_of(Plan()))
    record_figure("longest wait, s", round(outcome.got.stall, 3))
    record_figure("divergences", [*outcome.near_ties])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_poor_line(shape: str, stack_of: StackOf, size: Size) -> None:
    """A text travels as any other, slowly; `collaborative` may find the line too slow to wait."""
    stack = stack_of(Plan())
    for way in size.pick(short=["verified states", "split"], long=list(WAYS)):
        scenario = Scenario(wish(way), [], [same_tokens])
        stack.restore()
        stack.uninterrupted(scenario.wish)
        run(scenario, stack, shape=SHAPES[shape])
