"""The plan of a verified text follows what was measured and what the cloud's time is worth."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.controller import (
    EXPLORED,
    PLANS,
    WHOLE,
    Controller,
    Measured,
    choose,
    cost,
    paced,
)
from services.edge.policy import Pacing, Plan

FULL = 0.037
SEEN = Measured(0.024, 0.026, missed=0.06, passes=0.45, tokens=400, steps=400)


def chosen(round_trip: float, price: float, *, able: bool = True, seen: Measured = SEEN) -> str:
    return choose("draft", seen, full=FULL, round_trip=round_trip, price=price, ahead=2, able=able)


def test_where_the_cloud_is_dear_it_only_looks_at_drafts() -> None:
    assert chosen(0.003, 10.0) == "draft"
    assert chosen(0.1, 10.0) == "draft"


def test_where_time_alone_counts_a_long_way_is_raced() -> None:
    assert chosen(0.3, 0.0) == "race"


def test_an_edge_slower_than_the_cloud_leaves_it_the_text() -> None:
    slow = Measured(edge=0.2, verify=0.026, missed=0.06, passes=0.45, tokens=400)
    assert chosen(0.05, 0.1, seen=slow) in ("race", "cloud")


@given(round_trip=st.floats(0, 1), price=st.floats(0, 10))
def test_a_cloud_without_the_lower_layers_is_only_asked_about_drafts(
    round_trip: float, price: float
) -> None:
    assert chosen(round_trip, price, able=False) == "draft"


@given(round_trip=st.floats(0, 2), missed=st.floats(0, 1))
def test_a_race_is_never_expected_to_be_slower_than_the_cloud(
    round_trip: float, missed: float
) -> None:
    seen = Measured(edge=0.024, verify=0.026, missed=missed, passes=0.45, tokens=400)
    seconds, _ = cost("race", seen, full=FULL, round_trip=round_trip, ahead=2)
    assert seconds <= FULL


def test_a_plan_is_kept_where_another_is_hardly_better() -> None:
    for round_trip in (0.003, 0.02, 0.05, 0.1, 0.2):
        first = chosen(round_trip, 0.5)
        again = choose(
            "assist", SEEN, full=FULL, round_trip=round_trip, price=0.5, ahead=2, able=True
        )
        if first == "draft":
            draft, assist = (
                sum(
                    part * weight
                    for part, weight in zip(
                        cost(plan, SEEN, full=FULL, round_trip=round_trip, ahead=2),
                        (1, 0.5),
                        strict=True,
                    )
                )
                for plan in ("draft", "assist")
            )
            assert again == ("draft" if draft < 0.95 * assist else "assist")


def test_the_first_text_shows_what_the_others_go_by() -> None:
    controller = Controller(Pacing(), None, 1.0, 2, 0.5, Measured())
    assert controller.pacing(0.01, able=True) == paced(Pacing(), "draft", ahead=2)
    controller.seen.take(100, verify=0.02, missed=0.1, passes=0.5)
    assert controller.seen.verify == pytest.approx(0.02)
    controller.seen.take(100, verify=0.03, missed=0.1, passes=0.5)
    assert controller.seen.verify == pytest.approx(0.025)
    for seconds in (0.02, 0.03, 0.04):
        controller.ran(8, seconds, whole=True)
    assert controller.seen.edge == pytest.approx(0.03)


def test_a_short_text_says_little_of_shares_and_what_is_long_past_nothing() -> None:
    seen = Measured()
    seen.take(4, verify=0.03, missed=1.0, passes=1.0)
    assert seen.verify == pytest.approx(0.03)
    assert seen.missed < 0.2
    for _ in range(100):
        seen.take(64, verify=0.03, missed=0.03, passes=0.3)
    assert seen.missed == pytest.approx(0.03, abs=0.001)
    for _ in range(30):
        seen.take(64, verify=0.06, missed=0.2, passes=0.3)
    assert seen.missed > 0.18
    assert seen.verify > 0.058


def test_an_operators_plan_stands_where_the_cloud_can_follow_it() -> None:
    controller = Controller(Pacing(width=4), "cloud", 1.0, 2, 0.5, Measured())
    pacing = controller.pacing(None, able=True)
    assert (pacing.width, pacing.ahead, pacing.racing) == (0, WHOLE, True)
    assert controller.pacing(None, able=False) == paced(Pacing(width=4), "draft", ahead=2)


def measured(row_cost: float = 0.0) -> Controller:
    controller = Controller(Pacing(), "draft", 1.0, 2, 0.5, replace(SEEN))
    for rows in (1, 8) * 4:
        controller.rows.take(rows, 0.02 + row_cost * rows)
    return controller


def test_a_row_costs_what_steps_through_all_layers_say() -> None:
    controller, known = measured(0.001), measured(0.001)
    for rows in (1, 8):
        controller.ran(rows, 0.5 / rows, whole=False)
    assert controller.rows.slope == pytest.approx(known.rows.slope)
    assert controller.seen.edge > known.seen.edge


def test_the_slower_the_uplink_the_likelier_a_draft_must_be_to_be_sent() -> None:
    least = [
        measured().pacing(0.05, able=True, row_seconds=row).least
        for row in (0.0, 0.002, 0.006, 0.013, 1.0)
    ]
    assert least == sorted(least)
    assert least[0] == 0
    assert 0.02 < least[1] < 0.1
    assert least[3] < least[-1] == 0.5


def test_the_dearer_a_miss_the_more_is_sent() -> None:
    near, far = (measured().pacing(way, able=True, row_seconds=0.006).least for way in (0.0, 0.3))
    assert far < near


def test_rows_that_make_the_step_longer_must_be_likely() -> None:
    assert measured().pacing(0.003, able=True).floor == Pacing().floor
    dear = measured(0.005).pacing(0.003, able=True).floor
    assert dear == pytest.approx(0.005 / (0.003 + 0.026 + 0.012))
    assert measured(10.0).pacing(0.003, able=True).floor == 0.3


def test_an_uplink_slower_than_the_edge_is_what_a_token_takes() -> None:
    for plan in ("draft", "assist", "race"):
        free, held = (
            cost(plan, SEEN, full=FULL, round_trip=0.01, ahead=2, row_seconds=row)[0]
            for row in (0.0, 0.5)
        )
        assert free < held or plan == "race"
    slow = choose(
        "draft", SEEN, full=FULL, round_trip=0.01, price=1.0, ahead=2, able=True, row_seconds=0.5
    )
    assert slow in ("race", "cloud")


def test_nothing_is_withheld_before_anything_was_seen() -> None:
    controller = Controller(Pacing(), None, 0.0, 2, 0.5, Measured())
    assert controller.pacing(0.003, able=True, row_seconds=0.01).least == 0
    controller.ran(8, 0.02, whole=True)
    assert controller.pacing(0.003, able=True, row_seconds=0.001).least == pytest.approx(
        0.002 / 0.033
    )


def test_one_stalled_step_does_not_end_drafting() -> None:
    controller = Controller(Pacing(), None, 1.0, 2, 0.5, Measured())
    for rows, seconds in [(4, 0.02), (8, 20.0), *[(1, 0.015)] * 50]:
        controller.ran(rows, seconds, whole=True)
    assert controller.pacing(0.03, able=False).floor <= 0.3
    known = controller.seen.edge
    controller.ran(8, 20.0, whole=True)
    assert controller.seen.edge < 1.2 * known


def test_a_plan_the_cloud_cannot_follow_is_left() -> None:
    seen = Measured(0.024, 0.026, missed=0.06, passes=0.45, tokens=400)
    for plan in PLANS:
        found = choose(plan, seen, full=FULL, round_trip=0.3, price=0, ahead=2, able=False)
        assert found == "draft"


def test_where_time_alone_counts_the_clock_decides() -> None:
    controller = Controller(Pacing(), None, 0.0, 2, 0.5, replace(SEEN))
    assert controller.pacing(0.003, able=True).plan == "race"
    controller.paces.took("race", 40, 0.4, step=0.009)
    assert controller.pacing(0.003, able=True).plan == "cloud"
    assert controller.pacing(0.003, able=False).plan == "draft"
    dear = Controller(Pacing(), None, 1.0, 2, 0.5, replace(SEEN), paces=controller.paces)
    assert dear.pacing(0.003, able=True).plan == "draft"


@pytest.mark.parametrize(("price", "fixed"), [(0.5, None), (0.0, None), (0.5, "race")])
def test_now_and_then_a_text_is_drafted_to_see_what_that_is_worth(
    price: float, fixed: Plan | None
) -> None:
    controller = Controller(Pacing(), fixed, price, 2, 0.5, replace(SEEN, missed=0.9), plan="race")
    plans = []
    for _ in range(3 * EXPLORED):
        exploring = controller.explores()
        plans.append(controller.pacing(0.3, able=True, exploring=exploring).ahead == 0)
    assert controller.plan == "race"
    assert sum(plans) == (3 if price and fixed is None else 0)
