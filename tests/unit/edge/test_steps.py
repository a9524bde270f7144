"""What one row more makes a step longer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.steps import StepTimes


@given(
    fixed=st.floats(0, 0.1),
    row=st.floats(0, 0.05),
    rows=st.lists(st.integers(1, 8), min_size=8, max_size=40),
)
def test_a_line_is_found(fixed: float, row: float, rows: list[int]) -> None:
    times = StepTimes()
    for each in [1, 8, 1, 8, *rows]:
        times.take(each, fixed + row * each)
    assert times.row_seconds == pytest.approx(row, rel=1e-6, abs=1e-9)


def test_steps_all_of_a_size_tell_nothing() -> None:
    times = StepTimes()
    assert times.row_seconds == 0
    for seconds in (0.01, 0.02, 0.015):
        times.take(8, seconds)
    assert times.row_seconds == 0


def test_a_longer_step_that_was_quicker_does_not_make_rows_free_of_charge_less_than_nothing() -> (
    None
):
    times = StepTimes()
    times.take(1, 0.02)
    times.take(8, 0.01)
    assert times.row_seconds == 0


def test_what_is_long_past_is_forgotten() -> None:
    times = StepTimes()
    for n in range(2000):
        rows = 1 + n % 8
        times.take(rows, 0.01 + (0.001 if n < 1000 else 0.003) * rows)
    assert times.row_seconds == pytest.approx(0.003, rel=0.05)
