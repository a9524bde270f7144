"""Fleets played, against what can be said of them without playing."""

from dataclasses import replace

import pytest

from benchmarks.simulate import queueing
from benchmarks.simulate.fleet import Fleet, Users, fleets
from benchmarks.simulate.queueing import Load, load, noticed_at
from benchmarks.simulate.world import Software

SOFTWARE = Software(edge_step=1.5, request=4.0, streamed=1.2, megabyte=6.0)
BUSY = Users(think_s=0.0)
NAMES = ("cloud-only", "CE-CoLLM 49.6%", "CE-CoLLM 49.6%, half")


@pytest.fixture(autouse=True)
def _shorter_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queueing, "LEAST_SECONDS", 20.0)
    monkeypatch.setattr(queueing, "LEAST_TOKENS", 4000)


def _fleet(name: str, users: Users = BUSY) -> Fleet:
    return fleets(users, SOFTWARE)[name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("users", [BUSY, Users(think_s=2.0)], ids=["busy", "thinking"])
def test_a_fleet_of_one_is_as_quick_as_its_parts(name: str, users: Users) -> None:
    fleet = _fleet(name, users)
    found = load(fleet, 1)
    # Pauses are drawn: of some forty answers their mean is known to a sixth.
    assert found.tokens_per_s == pytest.approx(fleet.alone_tokens_per_s(), rel=0.12)
    # Alone, the engine runs for its own rows only.
    assert found.fill < 0.02
    assert 0 < found.utilisation < 1


@pytest.mark.parametrize("name", NAMES)
def test_a_fleet_too_large_gets_what_full_steps_give(name: str) -> None:
    fleet = _fleet(name)
    found = load(fleet, 3000)
    assert found.tokens_per_s == pytest.approx(fleet.most_tokens_per_s(), rel=0.04)
    assert found.utilisation == pytest.approx(1.0, abs=0.01)
    assert found.fill > 0.95


def test_a_hundred_thousand_edges_wait_for_one_another() -> None:
    """By Little's law, an edge's token takes as long as one of every edge."""
    fleet = _fleet("cloud-only")
    found = load(fleet, 100_000)
    assert found.gap_p50_s == pytest.approx(100_000 / found.tokens_per_s, rel=0.15)


def test_pauses_make_room() -> None:
    busy, thinking = (
        load(_fleet("CE-CoLLM 49.6%", users), 200) for users in (BUSY, Users(think_s=10.0))
    )
    assert thinking.tokens_per_s < busy.tokens_per_s
    assert thinking.gap_p95_s < busy.gap_p95_s


def test_a_reader_slower_than_the_model_sets_the_pace() -> None:
    slow = load(_fleet("CE-CoLLM 49.6%", Users(think_s=0.0, tokens_per_s=4.0)), 10)
    # Every token kept takes a quarter of a second, and one that is asked for a little more.
    assert 10 * 3.4 < slow.tokens_per_s < 10 * 4.0


def test_passes_through_fewer_layers_let_more_edges_on() -> None:
    most = [_fleet(name).most_tokens_per_s() for name in NAMES]
    assert most == sorted(most)


def test_users_notice_one_another_where_a_token_takes_twice_as_long() -> None:
    fleet = _fleet("cloud-only")
    edges = noticed_at(fleet)
    alone = _per_token(load(fleet, 1))
    assert _per_token(load(fleet, edges)) >= 2 * alone
    assert _per_token(load(fleet, edges * 9 // 10)) < 2 * alone


def test_the_same_seed_plays_the_same_fleet() -> None:
    fleet = _fleet("CE-CoLLM 49.6%")
    assert load(fleet, 20) == load(fleet, 20)
    assert load(fleet, 20) != load(fleet, 20, seed=1)


def test_a_cloud_with_a_smaller_step_gives_less() -> None:
    fleet = _fleet("CE-CoLLM 49.6%")
    assert replace(fleet, budget=64).most_tokens_per_s() < fleet.most_tokens_per_s()


def _per_token(found: Load) -> float:
    return found.edges / found.tokens_per_s
