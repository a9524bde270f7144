"""The interval for a share against tables."""

import pytest

from shared.exits.intervals import beta_share, binomial_interval, student_quantile

# Clopper and Pearson's 95 % interval for so many events in so many trials.
TABLE = [
    (0, 10, 0.0, 0.3085),
    (1, 10, 0.0025, 0.4450),
    (5, 10, 0.1871, 0.8129),
    (10, 10, 0.6915, 1.0),
    (2, 1000, 0.000242, 0.007205),
]
# Student's quantiles of 95 % on both sides, by degrees of freedom.
STUDENT = [(1, 12.706), (3, 3.182), (10, 2.228), (1000, 1.962)]


@pytest.mark.parametrize(("events", "count", "low", "high"), TABLE)
def test_the_interval_is_clopper_and_pearsons(
    events: int, count: int, low: float, high: float
) -> None:
    assert binomial_interval(events / count, count) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("freedom", "quantile"), STUDENT)
def test_students_quantile(freedom: float, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, rel=1e-3)


def test_nothing_observed_says_nothing() -> None:
    assert binomial_interval(0.0, 0.0) == (0.0, 1.0)


def test_the_incomplete_beta_function_ends_far_out() -> None:
    assert beta_share(0.5, 40_000, 40_000) == pytest.approx(0.5)
    assert beta_share(1e-4, 1, 1e5) == pytest.approx(1 - (1 - 1e-4) ** 1e5)
