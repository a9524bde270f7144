"""What candidates are worth is what they have been worth, by lead and rank."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.chances import RANKS, Chances, untuned_chances

ASSUMED = ((0.4, 0.2, 0.1, 0.1), (0.6, 0.2, 0.1, 0.05), (0.9, 0.04, 0.02, 0.01))


def chances() -> Chances:
    return Chances((0.5, 1.5), ASSUMED)


@pytest.mark.parametrize(
    ("lead", "place"), [(0.0, 0), (0.49, 0), (0.5, 1), (1.49, 1), (1.5, 2), (float("inf"), 2)]
)
def test_before_anything_was_seen_the_assumed_shares_hold(lead: float, place: int) -> None:
    assert chances().of(lead) == pytest.approx(ASSUMED[place])


def test_a_larger_lead_is_worth_more_and_a_later_rank_less() -> None:
    known = untuned_chances()
    of = [known.of(lead) for lead in (-1.0, *known.leads)]
    assert [ranks[0] for ranks in of] == sorted(ranks[0] for ranks in of)
    for ranks in of:
        assert len(ranks) == RANKS
        assert list(ranks) == sorted(ranks, reverse=True)
        assert sum(ranks) <= 1


@pytest.mark.parametrize(
    ("share", "lead"), [(0.0, 0.0), (0.39, 0.0), (0.4, 0.5), (0.7, 1.5), (0.9, float("inf"))]
)
def test_the_lead_from_which_the_first_is_right_more_often(share: float, lead: float) -> None:
    assert chances().lead_for(share) == lead


def test_a_share_that_falls_again_counts_from_where_it_holds_to_the_end() -> None:
    assert Chances((0.5, 1.5), (ASSUMED[2], ASSUMED[0], ASSUMED[2])).lead_for(0.7) == 1.5


def test_two_sessions_of_a_kind_begin_alike_and_learn_apart() -> None:
    one, other = untuned_chances(), untuned_chances()
    one.learn(0.0, None)
    assert one.of(0.0) != other.of(0.0)
    assert other.of(0.0) == untuned_chances().of(0.0)


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.one_of(st.none(), st.integers(0, RANKS - 1))), max_size=60
    )
)
def test_chances_stay_chances(seen: list[tuple[float, int | None]]) -> None:
    known = chances()
    for lead, rank in seen:
        before = {at: known.of(at) for at in (0.0, 1.0, 2.0)}
        known.learn(lead, rank)
        changed = [at for at in before if known.of(at) != before[at]]
        assert len(changed) <= 1, "a lead teaches of its own kind alone"
        now = known.of(lead)
        assert all(0 <= chance <= 1 for chance in now)
        assert sum(now) <= 1 + 1e-9
        place = (lead >= 0.5) + (lead >= 1.5)
        was = before[float(place)]
        assert all(now[n] >= was[n] if n == rank else now[n] <= was[n] for n in range(RANKS))


def test_a_rank_beyond_those_kept_counts_as_none() -> None:
    one, other = chances(), chances()
    one.learn(1.0, RANKS + 3)
    other.learn(1.0, None)
    assert one.of(1.0) == other.of(1.0)


def test_what_is_seen_for_long_outweighs_what_was_assumed() -> None:
    known, draw = chances(), random.Random(0)
    shares = (0.2, 0.5, 0.1, 0.1)
    for _ in range(5000):
        rank = draw.choices([0, 1, 2, 3, None], [*shares, 0.1])[0]
        known.learn(1.0, rank)
    assert known.of(1.0) == pytest.approx(shares, abs=0.06)
    assert known.of(0.0) == pytest.approx(ASSUMED[0])


def test_the_past_is_forgotten() -> None:
    known = chances()
    for _ in range(5000):
        known.learn(0.0, 0)
    for _ in range(1500):
        known.learn(0.0, None)
    assert known.of(0.0)[0] < 0.3


def test_leads_part_one_bin_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="2 leads part 3 bins"):
        Chances((0.5, 1.5), ASSUMED[:2])
