"""Verified mode in virtual time: the same figures on every machine, so that what the algorithm is
worth can be held to.
"""

import itertools
from collections.abc import Sequence
from functools import cache

import pytest

from benchmarks.virtual.run import Answered, Deployed, answers
from tests.support.prompts import prompts
from tests.support.reference import bundles, text

LATE = (5, 6)
NEW_TOKENS = 24


@cache
def run(
    mode: str,
    rtt_ms: float,
    price: float = 1.0,
    mbit: float = 30.0,
    *,
    one_device: bool = False,
) -> list[Answered]:
    asked = [
        {
            "inputs": prompt,
            "parameters": {
                "mode": mode, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS,
            },
        }
        for prompt in prompts(text(), 2)
    ]  # fmt: skip
    edge, whole = bundles(*LATE).edge, bundles().cloud
    place = Deployed(
        edge, whole, rtt_ms, mbit, settings={"cloud_price": price}, one_device=one_device
    )
    return answers(place, asked)


def ids(found: Sequence[Answered]) -> list[list[int]]:
    return [[token["id"] for token in each.details["tokens"]] for each in found]


def ratio(mode: str, rtt_ms: float, price: float = 1.0, mbit: float = 30.0) -> float:
    """Time over cloud-only's."""
    found, base = run(mode, rtt_ms, price, mbit), run("cloud", rtt_ms, mbit=mbit)
    assert ids(found) == ids(base)
    return sum(each.seconds for each in found) / sum(each.seconds for each in base)


@pytest.mark.parametrize("rtt_ms", [3.0, 50.0, 300.0])
def test_with_time_alone_in_mind_it_is_never_slower_than_the_cloud(rtt_ms: float) -> None:
    assert ratio("verified", rtt_ms, 0.0) <= 1.03


def test_an_edge_that_holds_the_cloud_up_leaves_it_alone_after_a_text() -> None:
    """Both sides on one device, where every step of the edge is taken from the cloud."""
    base = run("cloud", 3.0, one_device=True)
    found = run("verified", 3.0, 0.0, one_device=True)
    assert ids(found) == ids(base)
    took, whole = (sum(each.seconds for each in those) for those in (found, base))
    assert took <= 1.03 * whole


def test_near_the_cloud_it_is_a_fifth_quicker_for_less_than_half_of_the_cloud() -> None:
    assert ratio("verified", 3.0) < 0.8
    spent, whole = (
        sum(each.details["usage"]["cloud_compute_seconds"] for each in run(mode, 3.0))
        for mode in ("verified", "cloud")
    )
    assert spent < 0.5 * whole


@pytest.mark.parametrize(("mbit", "most"), [(5.0, 1.0), (10.0, 0.8)])
def test_a_slow_uplink_carries_what_is_worth_its_way_and_no_more(mbit: float, most: float) -> None:
    assert ratio("verified", 3.0, mbit=mbit) < most


def test_a_second_run_takes_exactly_as_long() -> None:
    first = [each.arrivals for each in run("verified", 50.0)]
    run.cache_clear()
    again = [each.arrivals for each in run("verified", 50.0)]
    assert [[round(b - a, 9) for a, b in itertools.pairwise(one)] for one in first] == [
        [round(b - a, 9) for a, b in itertools.pairwise(one)] for one in again
    ]
