"""What one more of something costs, told from measurements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.line import Line


@given(
    fixed=st.floats(0, 0.1),
    each=st.floats(0, 0.05),
    places=st.lists(st.integers(1, 8), min_size=8, max_size=40),
)
def test_a_line_is_found(fixed: float, each: float, places: list[int]) -> None:
    line = Line()
    for x in [1, 8, 1, 8, *places]:
        line.take(x, fixed + each * x)
    assert line.slope == pytest.approx(each, rel=1e-6, abs=1e-9)


def test_places_that_are_alike_tell_nothing_new() -> None:
    line = Line()
    for y in (0.01, 0.02, 0.015):
        line.take(8, y)
    assert line.slope == 0
    line.take(1, 0.008)
    assert line.slope > 0
    for _ in range(5000):
        line.take(8, 0.015)
    assert line.slope > 0  # what was known before all became alike


def test_what_got_cheaper_with_more_costs_nothing() -> None:
    line = Line()
    line.take(1, 0.02)
    line.take(8, 0.01)
    assert line.slope == 0


def test_what_is_long_past_is_forgotten() -> None:
    line = Line()
    for n in range(2000):
        x = 1 + n % 8
        line.take(x, 0.01 + (0.001 if n < 1000 else 0.003) * x)
    assert line.slope == pytest.approx(0.003, rel=0.05)
