"""Who goes into a step: emergencies overtake, nobody starves, and what a prompt may cost others."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.schedule import LATE, LATE_SECONDS, RECENT_SECONDS, SHORT, Schedule
from shared.runtime.work import Claim, Priority
from tests.unit.runtime.waits import EMERGENCY, Engine, Wait, waits


def test_an_emergency_overtakes_and_others_have_a_few_rows_beside_it() -> None:
    schedule = Schedule(64, beside=3, patience=100)
    calm, urgent = waits(10), Wait(claim=Claim(priority=EMERGENCY))
    given = schedule.share([*calm, urgent], 1.0)
    assert given == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_the_rows_beside_an_emergency_are_for_drafts_too() -> None:
    schedule = Schedule(64, beside=3, patience=100)
    given = schedule.share([Wait(8), Wait(2, Claim(priority=EMERGENCY)), Wait(8)], 1.0)
    assert given == [3, 2, 0]


def test_others_stay_few_while_an_emergency_is_at_the_other_service() -> None:
    schedule = Schedule(64, beside=2, patience=100)
    claim = Claim(priority=EMERGENCY)
    assert schedule.share([Wait(30)], 0.0) == [30]
    schedule.ran([(claim, 1, True)], 0.1, now=0.0)
    calm = waits(5)
    assert sum(schedule.share(calm, 0.5)) == 2
    assert schedule.share([Wait(30), Wait(30)], 0.5) == [2, 0]
    assert sum(schedule.share(calm, RECENT_SECONDS)) == 5  # it does not come back
    schedule.ran([(claim, 1, True)], 0.1, now=2.0)
    claim.live = False
    assert sum(schedule.share(calm, 2.0)) == 5  # its text has ended


def test_a_prompt_waits_for_emergencies_until_its_patience_ends() -> None:
    schedule = Schedule(64, beside=4, patience=3)
    prompt, urgent = Wait(500), Wait(claim=Claim(priority=EMERGENCY))
    assert schedule.share([prompt, urgent], 2.9) == [0, 1]
    assert schedule.share([prompt, urgent], 3.0) == [63, 1]


def test_an_emergencys_prompt_has_the_step_whoever_else_is_served() -> None:
    engine = Engine(Schedule(64, stretch=1.001, beside=4, patience=100))
    engine.schedule.line.slope = 1.0
    engine.waiting = [*waits(20), Wait(200, Claim(priority=EMERGENCY))]
    assert engine.step()[-1] == 60


def test_an_emergencys_prompt_is_held_for_another_emergencys_tokens() -> None:
    schedule = Schedule(64, stretch=1.5)
    for rows in (1, 41):
        schedule.ran([(Claim(live=False), rows, True)], 1.0 + 0.1 * rows, now=0.0)
    urgent = [Wait(rows, Claim(priority=EMERGENCY)) for rows in (200, 1)]
    assert schedule.share(urgent, 0.0) == [6, 1]


@pytest.mark.parametrize("most", [2, 3, 8])
def test_emergencies_that_fill_every_step_leave_one_row_for_who_waited_too_long(most: int) -> None:
    schedule = Schedule(most, patience=2)
    urgent = waits(20, priority=EMERGENCY)
    old, older = Wait(since=-1), Wait(since=-5)
    given = schedule.share([old, *urgent, older], 1.0)
    assert (given[0], given[-1], sum(given)) == (0, 1, most)


@given(
    arrivals=st.lists(
        st.tuples(
            st.integers(0, 30),  # step
            st.integers(1, 60),  # rows
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["normal", "normal", "emergency"]),
        ),
        min_size=1,
        max_size=40,
    ),
    most=st.integers(1, 24),
    beside=st.integers(1, 6),
    patience=st.integers(1, 9),
)
def test_nobody_starves(
    arrivals: list[tuple[int, int, str, Priority]], most: int, beside: int, patience: int
) -> None:
    """Whoever waits is in a step `patience` later, or after those who waited longer than that."""
    engine = Engine(Schedule(most, beside=beside, patience=patience))
    arrivals = sorted(arrivals, key=lambda each: each[0])
    steps = 0
    while arrivals or engine.waiting:
        while arrivals and (arrivals[0][0] <= engine.now or not engine.waiting):
            _, rows, client, priority = arrivals.pop(0)
            engine.waiting.append(Wait(rows, Claim(client, priority), engine.now))
        engine.step()
        steps += 1
        assert steps < 40 * 60
    assert engine.longest <= patience + 40


def test_whoever_waited_too_long_is_let_in_beside_an_emergency_however_many_they_are() -> None:
    schedule = Schedule(64, beside=2, patience=3)
    given = schedule.share([*waits(9, rows=4), Wait(claim=Claim(priority=EMERGENCY))], 3.0)
    assert all(given)


@pytest.mark.parametrize(
    ("ended", "later", "chunk"),
    [(False, 0.5, 5), (True, 0.5, 64), (False, RECENT_SECONDS, 64)],
    ids=["goes on", "has ended", "is long gone"],
)
def test_a_prompt_alone_in_a_step_leaves_room_for_who_is_back_in_a_moment(
    ended: bool, later: float, chunk: int
) -> None:
    schedule = Schedule(64, stretch=1.5)
    for rows in (1, 41):
        schedule.ran([(Claim(live=False), rows, True)], 1.0 + 0.1 * rows, now=0.0)
    other = Claim()
    schedule.ran([(other, 1, True)], 1.1, now=0.0)
    other.live = not ended
    assert schedule.share([Wait(500)], later) == [1 + chunk if chunk < 64 else 64]


def test_a_session_alone_is_not_held_up_by_its_own_tokens() -> None:
    schedule = Schedule(64, stretch=1.5)
    own = Claim()
    for rows in (1, 41):
        schedule.ran([(own, rows, True)], 1.0 + 0.1 * rows, now=0.0)
    assert schedule.share([Wait(500, own)], 0.0) == [64]


def test_a_step_waits_for_an_emergency_that_is_back_before_it_would_end() -> None:
    schedule = Schedule(8, patience=1.0)
    claim, calm = Claim(priority=EMERGENCY), Wait(since=9.9)
    assert schedule.hold([calm], 10.0) == 0
    schedule.ran([(claim, 1, True)], 0.1, now=10.0)
    assert schedule.hold([calm], 10.001) == pytest.approx(LATE_SECONDS - 0.001)
    assert schedule.hold([calm], 10.0 + LATE_SECONDS) == 0, "it should have come"
    assert schedule.hold([calm, Wait(claim=claim)], 10.001) == 0, "it is back"
    claim.live = False
    assert schedule.hold([calm], 10.001) == 0, "its text has ended"


def test_a_step_that_ends_before_the_emergency_comes_does_not_wait() -> None:
    schedule = Schedule(8, patience=1.0)
    claim, calm = Claim(priority=EMERGENCY), Wait(since=10.1)
    schedule.ran([(claim, 1, True)], 0.1, now=10.0)
    schedule.share([Wait(claim=claim, since=10.24)], 10.25)  # 240 ms at the other service
    schedule.ran([(claim, 1, True)], 0.1, now=10.4)
    assert schedule.hold([calm], 10.41) == 0
    assert schedule.hold([calm], 10.53) == 0
    late = LATE_SECONDS + LATE * 0.24
    assert schedule.hold([calm], 10.55) == pytest.approx(10.64 + late - 10.55)
    assert schedule.hold([calm], 10.64 + late) == 0
    claim.live = False
    schedule.ran([(Claim(priority=EMERGENCY), 1, True)], 0.1, now=11.0)  # as the one before it
    assert schedule.hold([calm], 11.01) == 0
    assert schedule.hold([calm], 11.20) == pytest.approx(11.24 + late - 11.20)


def rows_of(waiting: Sequence[Wait], given: Sequence[int], priority: Priority) -> int:
    return sum(g for w, g in zip(waiting, given, strict=True) if w.claim.priority == priority)


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 3 * SHORT), st.sampled_from(["normal", "emergency"])),
        min_size=1,
        max_size=30,
    ),
    most=st.integers(1, 40),
    beside=st.integers(1, 8),
)
def test_while_an_emergency_waits_others_have_no_more_than_their_few_rows(
    rows: list[tuple[int, Priority]], most: int, beside: int
) -> None:
    schedule = Schedule(most, beside=beside)
    waiting = [Wait(count, Claim(priority=priority)) for count, priority in rows]
    given_out = schedule.share(waiting, 0.0)
    if any(priority == "emergency" for _, priority in rows):
        assert rows_of(waiting, given_out, "emergency") > 0
        assert rows_of(waiting, given_out, "normal") <= beside
