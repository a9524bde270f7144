"""Who goes into a step: emergencies overtake, nobody starves, clients share, and what a prompt may
cost others.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.runtime.schedule import (
    CLIENT_SECONDS,
    MOST_CLIENTS,
    MOST_HOLD_SECONDS,
    RECENT_SECONDS,
    SHORT,
    Schedule,
    is_short,
)
from shared.runtime.work import Claim, Priority

EMERGENCY: Priority = "emergency"


@dataclass(eq=False)
class Wait:
    """A work that waits."""

    rows: int = 1
    claim: Claim = field(default_factory=Claim)
    since: float = 0.0


def waits(count: int, rows: int = 1, **claim: str) -> list[Wait]:
    return [Wait(rows, Claim(**claim)) for _ in range(count)]  # type: ignore[arg-type]


@dataclass
class Engine:
    """Runs what a schedule chooses, a second a step, and keeps what it saw."""

    schedule: Schedule
    now: float = 0.0
    waiting: list[Wait] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0

    def step(self) -> list[int]:
        given = self.schedule.share(self.waiting, self.now)
        assert len(given) == len(self.waiting)
        assert 0 < sum(given) <= self.schedule.most
        batch = [(w, rows) for w, rows in zip(self.waiting, given, strict=True) if rows]
        shares = [(w.claim, rows, is_short(w.rows)) for w, rows in batch]
        for work, rows in batch:
            assert rows <= work.rows
            self.longest = max(self.longest, self.now - work.since)
        self.now += 1
        self.schedule.ran(shares, 1.0, self.now)
        for work, rows in batch:
            work.rows -= rows
            work.since = self.now
            self.served[work.claim.client] += rows
        self.waiting = [work for work in self.waiting if work.rows]
        return given


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


@pytest.mark.parametrize("patience", [3, 1e9])
@pytest.mark.parametrize("priority", ["normal", "emergency"])
@pytest.mark.parametrize(("rows", "few"), [(1, 8), (8, 4), (200, 4), (200, 1)])
def test_two_clients_have_half_each_though_one_has_ten_times_the_sessions(
    rows: int, few: int, priority: Priority, patience: float
) -> None:
    """Also where everybody has waited for too long."""
    engine = Engine(Schedule(16, patience=patience))
    sessions = [Claim("many", priority) for _ in range(10 * few)]
    sessions += [Claim("few", priority) for _ in range(few)]
    for _ in range(400):
        busy = {id(work.claim) for work in engine.waiting}
        engine.waiting += [Wait(rows, c, engine.now) for c in sessions if id(c) not in busy]
        engine.step()
    share = engine.served["few"] / engine.served.total()
    assert 0.45 <= share <= 0.55


def test_a_client_that_comes_back_does_not_catch_up_on_what_it_did_not_ask_for() -> None:
    engine = Engine(Schedule(10, patience=1e9))
    always = [Claim("always") for _ in range(20)]
    for step in range(100):
        now_and_then = [Wait(1, Claim("rarely"), engine.now)] if step % 5 == 0 else []
        busy = {id(work.claim) for work in engine.waiting}
        engine.waiting += [Wait(1, c, engine.now) for c in always if id(c) not in busy]
        engine.waiting += now_and_then
        engine.step()
    engine.served.clear()
    engine.waiting += [Wait(50, Claim("rarely"), engine.now) for _ in range(8)]
    for _ in range(10):
        busy = {id(work.claim) for work in engine.waiting}
        engine.waiting += [Wait(1, c, engine.now) for c in always if id(c) not in busy]
        engine.step()
    assert engine.served["always"] >= 30


def test_prompts_of_one_client_end_one_after_the_other() -> None:
    engine = Engine(Schedule(20, patience=100))
    engine.waiting = waits(2, rows=38)
    assert [engine.step() for _ in range(4)] == [[20, 0], [18, 2], [20], [16]]


def test_two_clients_prompts_take_turns() -> None:
    engine = Engine(Schedule(20, patience=100))
    engine.waiting = [Wait(60, Claim("a")), Wait(60, Claim("b"))]
    assert [engine.step() for _ in range(3)] == [[20, 0], [0, 20], [20, 0]]


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


def test_a_step_waits_a_moment_for_an_emergency_that_always_comes_at_once() -> None:
    schedule = Schedule(8, patience=1.0)
    claim, calm = Claim(priority=EMERGENCY), Wait(since=9.9)
    assert schedule.hold([calm], 10.0) == 0
    schedule.ran([(claim, 1, True)], 0.1, now=10.0)
    assert schedule.hold([calm], 10.001) == pytest.approx(MOST_HOLD_SECONDS - 0.001)
    assert schedule.hold([calm], 10.0 + MOST_HOLD_SECONDS) == 0
    assert schedule.hold([calm, Wait(claim=claim)], 10.001) == 0, "it is back"
    assert schedule.hold([calm, Wait(since=8.9)], 10.001) == 0, "somebody waited too long"
    # What was away for longer is at the other service: nobody waits for that.
    schedule.share([Wait(claim=claim, since=10.0 + 2 * MOST_HOLD_SECONDS)], 10.02)
    schedule.ran([(claim, 1, True)], 0.1, now=10.1)
    assert schedule.hold([calm], 10.101) == 0
    claim.live = False
    assert schedule.hold([calm], 10.101) == 0


def test_nothing_is_kept_of_who_is_gone() -> None:
    schedule = Schedule(8)
    claims = [Claim(str(n)) for n in range(50)]
    for claim in claims:
        schedule.share([Wait(claim=claim)], 0.0)
        schedule.ran([(claim, 1, True)], 0.1, now=0.0)
    assert len(schedule._clients) == len(schedule._recent) == 50
    for claim in claims[:20]:
        claim.live = False
    last = Wait(claim=Claim("last"))
    schedule.share([last], 0.5)
    assert len(schedule._recent) == 30
    schedule.share([last], RECENT_SECONDS)
    assert not schedule._recent
    schedule.share([last], CLIENT_SECONDS + 1)
    assert list(schedule._clients) == ["last"]


def test_however_many_clients_come_few_are_kept() -> None:
    schedule = Schedule(8)
    for n in range(3 * MOST_CLIENTS):
        schedule.share([Wait(claim=Claim(str(n)))], 0.0)
    assert len(schedule._clients) == MOST_CLIENTS


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
