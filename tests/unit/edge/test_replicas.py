"""An edge stays with one replica of the cloud, moves where it must, and edges spread over all."""

import asyncio
from collections import Counter

import httpx
import pytest

from services.edge.replicas import AVOIDED_SECONDS, Replicas, addresses, ranked

THREE = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


class Network(httpx.AsyncBaseTransport):
    """Replicas that answer, but for those that are gone; keeps who was asked."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.hung: set[str] = set()
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        address = request.extensions["address"]
        if address in self.gone:
            raise httpx.ConnectError("refused", request=request)
        if address in self.hung:
            raise httpx.ReadTimeout("silence", request=request)
        return httpx.Response(200, text=address)


class World:
    """A name with addresses that can change, a network, and a clock."""

    def __init__(self, edge: str = "edge-1") -> None:
        self.network = Network()
        self.names = list(THREE)
        self.resolved = 0
        self.now = 100.0
        self.replicas = Replicas(self.network, edge, resolve=self._resolve, clock=lambda: self.now)
        self.client = httpx.AsyncClient(transport=self.replicas, base_url="http://cloud:8001")

    async def _resolve(self, host: str, port: int) -> list[str]:
        assert (host, port) == ("cloud", 8001)
        self.resolved += 1
        await asyncio.sleep(0)
        if not self.names:
            raise httpx.ConnectError("temporary failure in name resolution")
        return list(self.names)

    async def ask(self) -> str:
        return (await self.client.get("/readyz")).text


async def test_an_edge_stays_with_one_replica_whatever_order_the_name_service_gives() -> None:
    world = World()
    first = await world.ask()
    for _ in range(5):
        world.names.append(world.names.pop(0))
        world.now += 60
        assert await world.ask() == first
    assert world.resolved == 6


async def test_the_name_is_not_looked_up_for_every_request() -> None:
    world = World()
    for _ in range(20):
        await world.ask()
    assert world.resolved == 1


async def test_edges_spread_over_the_replicas() -> None:
    share = Counter(ranked(f"edge-{n}", THREE)[0] for n in range(300))
    assert set(share) == set(THREE)
    assert min(share.values()) > 60


async def test_a_replica_that_goes_takes_only_its_own_edges_with_it() -> None:
    gone = THREE[0]
    left = [each for each in THREE if each != gone]
    for n in range(100):
        before = ranked(f"edge-{n}", THREE)[0]
        assert before == gone or ranked(f"edge-{n}", left)[0] == before


async def test_a_request_goes_on_to_the_next_replica_and_stays_there_for_a_while() -> None:
    world = World()
    first = await world.ask()
    world.network.gone.add(first)
    second = await world.ask()
    assert second != first
    world.network.gone.clear()
    world.now += AVOIDED_SECONDS / 2
    assert await world.ask() == second
    world.now += AVOIDED_SECONDS
    assert await world.ask() == first


async def test_with_nobody_there_the_error_is_the_network_s() -> None:
    world = World()
    world.network.gone.update(THREE)
    with pytest.raises(httpx.ConnectError, match="refused"):
        await world.ask()
    assert len(world.network.asked) == len(THREE)


async def test_a_name_service_that_fails_for_a_while_loses_no_replica() -> None:
    world = World()
    first = await world.ask()
    world.names.clear()
    world.now += 60
    assert await world.ask() == first


async def test_a_name_service_that_never_knew_is_a_connection_error() -> None:
    world = World()
    world.names.clear()
    with pytest.raises(httpx.ConnectError, match="no address"):
        await world.ask()


async def test_many_requests_at_once_look_the_name_up_once() -> None:
    world = World()
    assert len(set(await asyncio.gather(*(world.ask() for _ in range(20))))) == 1
    assert world.resolved == 1


async def test_a_replica_that_takes_connections_and_does_not_answer_is_left() -> None:
    world = World()
    first = await world.ask()
    world.network.hung.add(first)
    with pytest.raises(httpx.ReadTimeout):
        await world.ask()
    assert await world.ask() != first


async def test_a_failure_after_connecting_is_not_sent_elsewhere() -> None:
    world = World()

    class Breaks(httpx.AsyncBaseTransport):
        asked = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            Breaks.asked += 1
            raise httpx.ReadError("reset", request=request)

    broken = Replicas(Breaks(), "edge", resolve=world._resolve)
    async with httpx.AsyncClient(transport=broken, base_url="http://cloud:8001") as client:
        with pytest.raises(httpx.ReadError):
            await client.get("/")
    assert Breaks.asked == 1


async def test_the_request_still_speaks_of_the_name() -> None:
    world = World()
    await world.client.post("/v1/blocks", content=b"block")
    (sent,) = world.network.asked
    assert sent.headers["host"] == "cloud:8001"
    assert sent.extensions["address"] in THREE
    assert str(sent.url) == "http://cloud:8001/v1/blocks"
    assert await sent.aread() == b"block"


async def test_a_name_nobody_knows_is_a_connection_error() -> None:
    with pytest.raises(httpx.ConnectError, match=r"nowhere\.invalid"):
        await addresses("nowhere.invalid", 80)
