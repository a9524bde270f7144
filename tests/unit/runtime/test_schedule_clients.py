"""Clients share an engine by rows served, and nothing is kept of those who are gone."""

import pytest

from shared.runtime.schedule import CLIENT_SECONDS, MOST_CLIENTS, RECENT_SECONDS, Schedule
from shared.runtime.work import Claim, Priority
from tests.unit.runtime.waits import Engine, Wait, waits


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
    sessions = [*always, *(Claim("rarely") for _ in range(20))]
    for _ in range(10):
        busy = {id(work.claim) for work in engine.waiting}
        engine.waiting += [Wait(1, c, engine.now) for c in sessions if id(c) not in busy]
        engine.step()
    assert engine.served["always"] >= 30


def test_a_client_that_comes_first_starts_level_with_the_others() -> None:
    engine = Engine(Schedule(9, patience=1e9))
    engine.waiting = waits(9, rows=5, client="a") + waits(9, rows=5, client="b")
    for _ in range(6):
        engine.step()
    engine.served.clear()
    engine.waiting += waits(9, rows=5, client="c")
    engine.step()
    assert set(engine.served.values()) <= {0, 3, 4, 5}
    assert engine.served["c"] <= 5


def test_prompts_of_one_client_end_one_after_the_other() -> None:
    engine = Engine(Schedule(20, patience=100))
    engine.waiting = waits(2, rows=38)
    assert [engine.step() for _ in range(4)] == [[20, 0], [18, 2], [20], [16]]


def test_two_clients_prompts_take_turns() -> None:
    engine = Engine(Schedule(20, patience=100))
    engine.waiting = [Wait(60, Claim("a")), Wait(60, Claim("b"))]
    assert [engine.step() for _ in range(3)] == [[20, 0], [0, 20], [20, 0]]


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
