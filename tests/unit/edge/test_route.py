"""When a session goes on at another replica, and how often a need is sent again."""

import time
from dataclasses import dataclass, field

import httpx
import pytest

from services.edge import route as routes
from services.edge.replicas import Replicas
from services.edge.route import EARNED, RetryBudget, Route, Tries
from shared.errors import CloudLost
from shared.runtime.breaker import Breaker


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fleet:
    """So many replicas, each known by its own URL."""

    count: int
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        urls = [httpx.URL(f"http://cloud-{n}:8001") for n in range(self.count)]
        self.replicas = Replicas(
            urls, lambda: Breaker(1.0, 8.0, self.clock, jitter=lambda: 1.0), clock=self.clock
        )

    def route(self, **given: object) -> Route:
        return Route(self.replicas, "session", **given)  # type: ignore[arg-type]


def elsewhere(route: Route) -> bool:
    return route.better_elsewhere


async def sent(tries: Tries, error: CloudLost, fail: bool = True) -> int:
    """How often a need is sent that fails each time; with `fail`, at a replica that is down."""
    count = 1
    while True:
        at = await tries.route.here()
        if fail:
            at.lost(error.reason)
        if tries.route.better_elsewhere:
            tries.route.leave()
        try:
            await tries.again(error)
        except CloudLost:
            return count
        count += 1


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "FIRST_PAUSE_SECONDS", 0.0)


async def test_a_session_stays_until_its_replica_is_down_and_another_serves() -> None:
    fleet = Fleet(2)
    route = fleet.route()
    first = await route.here()
    assert first.sessions == 1
    assert elsewhere(route) is False
    first.failed("refused")
    assert elsewhere(route) is True
    (other,) = [each for each in fleet.replicas.known if each is not first]
    other.failed("refused")
    assert not elsewhere(route)
    fleet.clock.now += 60
    other.answered()
    assert elsewhere(route)
    route.leave()
    assert (first.sessions, await route.here()) == (0, other)
    first.answered()
    assert not elsewhere(route)
    assert route.visited == [first, other]


async def test_a_session_leaves_a_replica_that_leaves_unless_all_do() -> None:
    fleet = Fleet(2)
    route = fleet.route()
    (await route.here()).leaves()
    assert elsewhere(route)
    for each in fleet.replicas.known:
        each.leaves()
    assert not elsewhere(route)


async def test_a_session_turned_away_by_one_that_leaves_tries_one_that_was_down() -> None:
    """It may be back: in a rolling restart the next replica stops before the edge has looked."""
    fleet = Fleet(2)
    await fleet.replicas.refresh()
    back, leaving = fleet.replicas.known
    back.lost("refused")
    route = fleet.route()
    assert await route.here() is leaving
    leaving.leaves()
    assert not elsewhere(route), "what it holds it ends"
    route.turned_away = True
    assert elsewhere(route)
    route.leave()
    assert await route.here() is back
    assert await fleet.route().here() is back


async def test_a_session_leaves_a_replica_whose_address_is_gone() -> None:
    fleet = Fleet(2)
    route = fleet.route()
    first = await route.here()
    fleet.replicas.known = [each for each in fleet.replicas.known if each is not first]
    assert elsewhere(route)


async def test_who_leaves_is_told_of_the_end_only_where_the_session_was_last() -> None:
    fleet = Fleet(3)
    route = fleet.route()
    found = []
    for _ in range(3):
        at = await route.here()
        found.append(at)
        at.failed("refused")
        route.leave()
    first, second, third = found
    assert route.partings == [first, second, third]
    second.leaves()
    assert route.partings == [first, third]
    third.leaves()
    assert route.partings == [first, third]


async def test_going_back_and_forth_says_goodbye_once_to_each() -> None:
    fleet = Fleet(2)
    route = fleet.route()
    first = await route.here()
    first.failed("refused")
    route.leave()
    second = await route.here()
    first.answered()
    second.failed("refused")
    route.leave()
    assert await route.here() is first
    route.leave()
    assert route.visited == [second, first]
    assert (first.sessions, second.sessions) == (0, 0)


@pytest.mark.parametrize(("count", "times"), [(1, 2), (2, 7), (3, 10)])
async def test_a_need_is_sent_to_each_replica_a_few_times(count: int, times: int) -> None:
    fleet = Fleet(count)
    assert await sent(fleet.route().tries(), CloudLost("gone", reason="refused")) == times


@pytest.mark.parametrize("reason", ["timeout", "overloaded", "out_of_memory"])
async def test_what_asking_again_does_not_help_goes_to_others_only(reason: str) -> None:
    error = CloudLost("late", reason=reason)
    assert await sent(Fleet(1).route().tries(), error) == 1
    assert await sent(Fleet(2).route().tries(), error) == 2


async def test_no_need_goes_on_beyond_its_deadline() -> None:
    route = Fleet(3).route(seconds=0.0)
    assert await sent(route.tries(), CloudLost("gone", reason="refused")) == 1


async def test_an_answer_begins_the_tries_anew() -> None:
    tries = Fleet(1).route().tries()
    error = CloudLost("gone", reason="broken")
    assert await sent(tries, error, fail=False) == 2
    tries.answered()
    assert tries.deadline > time.monotonic()
    assert await sent(tries, error, fail=False) == 2


async def test_retries_end_with_the_budget_and_answers_earn_it_back() -> None:
    fleet, budget = Fleet(1), RetryBudget(2.0)
    error = CloudLost("gone", reason="broken")
    counts = [await sent(fleet.route(budget=budget).tries(), error, fail=False) for _ in range(4)]
    assert counts == [2, 2, 1, 1]
    for _ in range(round(1 / EARNED)):
        fleet.route(budget=budget).tries().answered()
    assert await sent(fleet.route(budget=budget).tries(), error, fail=False) == 2
    for _ in range(100):
        budget.earn()
    assert budget.spend()
    assert budget.spend()
    assert not budget.spend()


async def test_a_cloud_without_an_address_is_lost() -> None:
    async def nobody(host: str, port: int) -> list[str]:
        raise httpx.ConnectError("unknown name")

    nowhere = Replicas([httpx.URL("http://cloud")], lambda: Breaker(1, 8), resolve=nobody)
    with pytest.raises(CloudLost, match="unknown name") as lost:
        await Route(nowhere, "session").here()
    assert lost.value.reason == "refused"


async def test_a_need_says_what_it_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr("services.edge.route.time.monotonic", lambda: now)
    tries = Fleet(1).route(seconds=8.0).tries()
    now = 55.0
    assert tries.left == 3.0
    now = 70.0
    assert tries.left == routes.LEAST_SECONDS
