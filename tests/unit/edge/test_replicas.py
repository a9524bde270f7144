"""Sessions spread over the replicas of the cloud, stay where they are, and move where they must."""

import asyncio
from collections import Counter

import httpx
import pytest

from services.edge.replicas import LEAVING_SECONDS, RESOLVED_SECONDS, Replicas, addresses, ranked
from shared.runtime.breaker import Breaker

THREE = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
CLOUD = httpx.URL("http://cloud:8001")


class World:
    """A name with addresses that can change, and a clock."""

    def __init__(self, *urls: httpx.URL) -> None:
        self.names = {"cloud": list(THREE), "other": ["10.0.9.9"]}
        self.resolved = 0
        self.now = 100.0
        self.replicas = Replicas(
            urls or [CLOUD],
            breaker=lambda: Breaker(1.0, 8.0, self.clock, jitter=lambda: 1.0),
            resolve=self._resolve,
            clock=self.clock,
        )

    def clock(self) -> float:
        return self.now

    async def _resolve(self, host: str, port: int) -> list[str]:
        assert port == 8001
        self.resolved += 1
        await asyncio.sleep(0)
        if not self.names[host]:
            raise httpx.ConnectError("temporary failure in name resolution")
        return list(self.names[host])

    async def at(self, key: str = "session") -> str:
        return (await self.replicas.pick(key)).address or ""


async def test_a_session_has_one_replica_whatever_order_the_name_service_gives() -> None:
    world = World()
    first = await world.at()
    for _ in range(5):
        world.names["cloud"].append(world.names["cloud"].pop(0))
        world.now += 60
        assert await world.at() == first
    assert world.resolved == 6


async def test_the_name_is_not_looked_up_for_every_session() -> None:
    world = World()
    for n in range(20):
        await world.at(f"session-{n}")
    assert world.resolved == 1


async def test_many_sessions_at_once_look_the_name_up_once() -> None:
    world = World()
    await asyncio.gather(*(world.at(f"session-{n}") for n in range(20)))
    assert world.resolved == 1


async def test_sessions_spread_over_the_replicas() -> None:
    world = World()
    share = Counter([await world.at(f"session-{n}") for n in range(300)])
    assert set(share) == set(THREE)
    assert min(share.values()) > 60


async def test_a_replica_that_goes_takes_only_its_own_sessions_with_it() -> None:
    world = World()
    await world.replicas.refresh()
    gone, *left = world.replicas.known
    for n in range(100):
        before = ranked(f"session-{n}", world.replicas.known)[0]
        assert before is gone or ranked(f"session-{n}", left)[0] is before


async def test_replicas_keep_what_is_known_of_them_when_the_name_is_looked_up_again() -> None:
    world = World()
    first = await world.replicas.pick("session")
    first.failed("refused")
    world.now += RESOLVED_SECONDS
    second = await world.replicas.pick("session")
    assert world.resolved == 2
    assert second is not first
    assert first in world.replicas.known
    first.answered()
    assert await world.replicas.pick("session") is first


async def test_one_broken_connection_is_no_outage_but_two_in_a_row_are() -> None:
    world = World()
    first = await world.replicas.pick("session")
    first.failed("broken")
    assert first.up
    first.answered()
    first.failed("broken")
    assert first.up
    first.failed("broken")
    assert not first.up


async def test_one_that_leaves_is_chosen_last_until_it_stays_or_time_has_passed() -> None:
    world = World()
    first = await world.replicas.pick("session")
    first.leaves()
    assert (first.up, first.serves) == (True, False)
    assert await world.replicas.pick("session") is not first
    first.stays()
    assert await world.replicas.pick("session") is first
    first.leaves()
    world.now += LEAVING_SECONDS
    assert await world.replicas.pick("session") is first


async def test_where_none_serves_one_that_leaves_comes_last_but_for_one_that_does_not_fit() -> None:
    """It takes no new session; one that was down may be back."""
    world = World()
    await world.replicas.refresh()
    a, b, c = world.replicas.known
    a.leaves()
    b.lost("refused")
    c.unfit = "another model"
    assert await world.replicas.pick("session") is b
    assert await world.replicas.pick("session", [b]) is a
    b.unfit = "another model"
    assert await world.replicas.pick("session") is a


async def test_several_urls_are_replicas_together() -> None:
    other = httpx.URL("http://other:8001")
    world = World(CLOUD, other)
    await world.replicas.refresh()
    assert [(each.url, each.address) for each in world.replicas.known] == [
        *((CLOUD, address) for address in THREE),
        (other, "10.0.9.9"),
    ]


async def test_a_name_that_fails_takes_no_other_with_it() -> None:
    world = World(CLOUD, httpx.URL("http://other:8001"))
    world.names["other"].clear()
    assert {await world.at(f"session-{n}") for n in range(100)} == set(THREE)


async def test_a_name_service_that_fails_for_a_while_loses_no_replica() -> None:
    world = World()
    first = await world.at()
    world.names["cloud"].clear()
    world.now += 60
    assert await world.at() == first


async def test_a_name_service_that_never_knew_is_a_connection_error() -> None:
    world = World()
    world.names["cloud"].clear()
    with pytest.raises(httpx.ConnectError, match="no address"):
        await world.at()


async def test_what_failed_may_have_a_successor_and_is_looked_up_again() -> None:
    world = World()
    await world.at()
    world.names["cloud"] = ["10.0.0.4"]
    assert await world.at() in THREE
    world.replicas.doubt()
    assert await world.at() == "10.0.0.4"


async def test_without_a_name_service_each_url_is_a_replica() -> None:
    replicas = Replicas([CLOUD, httpx.URL("http://other:8001")], lambda: Breaker(1, 8))
    await replicas.refresh()
    assert [(each.url.host, each.address) for each in replicas.known] == [
        ("cloud", None),
        ("other", None),
    ]


async def test_a_name_nobody_knows_is_a_connection_error() -> None:
    with pytest.raises(httpx.ConnectError, match=r"nowhere\.invalid"):
        await addresses("nowhere.invalid", 80)
