"""The estimate of disagreement on traffic whose truth is known: it is right on average, its
interval holds the truth as often as it says, and what is labelled by the way alone misleads.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from math import sqrt
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.exits.audit import Audit, Audited, Estimate
from tests.support.results import Figure
from tests.support.size import Size
from tests.unit.exits.traffic import LAYER, Ended, Traffic

REQUESTS = 400
FOR_GOOD = 1e12  # a memory that loses nothing
COUNTS = st.integers(0, 50)


def replayed(traffic: Traffic, threshold: float, count: int = REQUESTS) -> list[Ended]:
    return list(islice(traffic.requests({LAYER: threshold}), count))


def truth_of(requests: list[Ended]) -> float:
    wrong = sum(each.seen.wrong + each.truth for each in requests)
    return wrong / sum(each.seen.tokens for each in requests)


def by_the_way(requests: list[Ended]) -> float:
    """What labels before offloads alone would make of it."""
    tokens = sum(each.seen.tokens - each.seen.tail for each in requests)
    return sum(each.seen.wrong for each in requests) / tokens


def estimated(requests: list[Ended], memory: float = FOR_GOOD) -> Estimate:
    audit = Audit(memory)
    for each in requests:
        audit.take(each.seen)
    estimate = audit.estimate()
    assert estimate is not None
    return estimate


@pytest.mark.parametrize(("share", "threshold"), [(0.02, 0.8), (0.1, 0.8), (0.1, 0.95)])
def test_the_interval_holds_the_truth(
    share: float, threshold: float, size: Size, record_figure: Callable[[str, Figure], None]
) -> None:
    rows = []
    for seed in range(size.pick(short=20, long=400)):
        requests = replayed(Traffic(seed, share=share), threshold)
        estimate, truth = estimated(requests), truth_of(requests)
        rows.append((truth, estimate))
    told = [[truth, each.value, each.low, each.high] for truth, each in rows]
    record_figure("truth, estimate, low, high", [round(x, 4) for row in told for x in row])
    held = [estimate.low <= truth <= estimate.high for truth, estimate in rows]
    assert sum(held) >= len(rows) - 3 * sqrt(0.05 * 0.95 * len(rows)) - 0.05 * len(rows)


def test_the_estimate_is_right_on_average_where_labels_by_the_way_are_not(size: Size) -> None:
    off, misled = [], []
    for seed in range(size.pick(short=40, long=400)):
        requests = replayed(Traffic(seed, share=0.1), 0.8)
        truth = truth_of(requests)
        off.append(estimated(requests).value - truth)
        misled.append(by_the_way(requests) - truth)
    assert abs(mean(off)) < 3 * stdev(off) / sqrt(len(off))
    assert abs(mean(misled)) > 10 * stdev(misled) / sqrt(len(misled))


def test_requests_chosen_less_often_stand_for_more(size: Size) -> None:
    """Two kinds of traffic with their own probabilities: neither outweighs the other."""
    off = []
    for seed in range(size.pick(short=40, long=400)):
        easy = replayed(Traffic(seed, share=0.4), 0.5, 200)
        hard = replayed(Traffic(seed + 10_000, overrates=6, share=0.05), 0.5, 200)
        requests = [*easy, *hard]
        off.append(estimated(requests).value - truth_of(requests))
    assert abs(mean(off)) < 3 * stdev(off) / sqrt(len(off)) + 0.005
    # Unweighted it would be far off.
    plain = [replace(each, seen=replace(each.seen, share=1.0)) for each in requests]
    assert abs(estimated(plain).value - truth_of(plain)) > 0.02


def test_where_every_tail_is_judged_nothing_is_left_to_estimate() -> None:
    requests = replayed(Traffic(1, share=1.0), 0.9)
    estimate = estimated(requests)
    assert estimate.value == pytest.approx(truth_of(requests))
    assert estimate.high - estimate.low == pytest.approx(0)


def test_without_a_judged_tail_the_interval_leaves_it_open() -> None:
    audit = Audit()
    audit.take(Audited(tokens=100, judged=50, wrong=5, tail=40))
    estimate = audit.estimate()
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.09, 0.05, 0.45))


def test_one_judged_tail_without_an_error_proves_little() -> None:
    audit = Audit()
    audit.take(Audited(tokens=10, judged=0, wrong=0, tail=10, tail_wrong=0, share=0.02))
    for _ in range(49):
        audit.take(Audited(tokens=10, judged=0, wrong=0, tail=10))
    estimate = audit.estimate()
    assert estimate is not None
    assert estimate.value == 0
    assert estimate.high > 0.25


def test_no_request_no_estimate() -> None:
    assert Audit().estimate() is None


def test_the_estimate_follows_the_traffic() -> None:
    requests = [
        *replayed(Traffic(1, share=1.0), 0.5, 2000),
        *replayed(Traffic(2, overrates=5, share=1.0), 0.5, 1000),
    ]
    now = truth_of(requests[2000:])
    assert estimated(requests, memory=5000).value == pytest.approx(now, rel=0.15)
    assert estimated(requests).value < 0.75 * now


@st.composite
def ended(draw: st.DrawFn) -> Audited:
    judged, tail, asked = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    looked = draw(st.booleans())
    return Audited(
        tokens=judged + tail + asked,
        judged=judged,
        wrong=draw(st.integers(0, judged)),
        tail=tail,
        tail_wrong=draw(st.integers(0, tail)) if looked else None,
        share=draw(st.floats(0.01, 1)),
    )


@given(st.lists(ended(), min_size=1, max_size=30))
def test_the_estimate_is_a_share_within_its_interval(requests: list[Audited]) -> None:
    audit = Audit()
    for each in requests:
        audit.take(each)
    estimate = audit.estimate()
    if estimate is None:
        assert not any(each.tokens for each in requests)
        return
    bounds = (-1e-9, estimate.low, estimate.value, estimate.high, 1 + 1e-9)
    assert sorted(bounds) == pytest.approx(bounds, abs=1e-9)


def test_tails_judged_long_ago_say_nothing_any_more() -> None:
    """Numbers too small to fade further are no share of each other."""
    audit = Audit()
    audit.take(Audited(tokens=20, judged=0, wrong=0, tail=20, tail_wrong=1, share=0.02))
    for _ in range(9000):
        audit.take(Audited(tokens=5_000, judged=2_500, wrong=25, tail=2_500, share=0.02))
    found, fresh = audit.estimate(), Audit()
    for _ in range(200):
        fresh.take(Audited(tokens=5_000, judged=2_500, wrong=25, tail=2_500, share=0.02))
    other = fresh.estimate()
    assert found is not None
    assert other is not None
    assert found.value == pytest.approx(other.value)
    assert found.high == pytest.approx(other.high, rel=0.1)
