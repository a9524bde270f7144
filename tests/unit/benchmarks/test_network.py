"""The emulated network: when bytes arrive, in which order, and what it makes of a real stream."""

import asyncio
import socket
import statistics
import time
from collections.abc import Sequence
from contextlib import closing

import pytest

from benchmarks.network.calibrate import Far, Measured, measure
from benchmarks.network.path import MEGABIT, Path, Shape, paths
from benchmarks.network.proxy import OPENING, Crossing, Proxy
from benchmarks.stack import Network

HOST = "127.0.0.1"


def test_an_idle_path_takes_the_time_on_the_line_and_the_delay() -> None:
    path = Path(delay_seconds=0.01, bytes_per_second=1000.0)
    assert path.send(100, now=5.0) == pytest.approx(5.11)


def test_what_follows_waits_for_the_line() -> None:
    path = Path(delay_seconds=0.01, bytes_per_second=1000.0)
    path.send(100, now=5.0)
    assert path.send(100, now=5.0) == pytest.approx(5.21)
    assert path.backlog(5.0) == pytest.approx(0.2)
    assert path.backlog(9.0) == 0.0


def test_a_burst_leaves_at_once_when_the_bucket_is_full() -> None:
    path = Path(bytes_per_second=1000.0, burst=150)
    assert path.send(100, now=5.0) == 5.0
    assert path.send(100, now=5.0) == pytest.approx(5.05)
    assert path.send(150, now=9.0) == 9.0  # filled again, and no fuller than its depth
    assert path.send(100, now=9.0) == pytest.approx(9.1)


def test_jitter_stays_within_its_width() -> None:
    path = Path(delay_seconds=0.05, jitter_seconds=0.02)
    arrivals = [path.send(1, now=0.0) for _ in range(500)]
    assert 0.04 <= min(arrivals) < 0.042
    assert 0.058 < max(arrivals) <= 0.06
    assert statistics.mean(arrivals) == pytest.approx(0.05, abs=0.002)


def test_a_shape_becomes_two_paths_less_what_the_proxy_takes_itself() -> None:
    up, down = paths(Shape(rtt_ms=10, mbit_up=8), less_delay=0.002)
    assert [up.delay_seconds, down.delay_seconds] == pytest.approx([0.004, 0.004])
    assert (up.bytes_per_second, down.bytes_per_second) == (1_000_000.0, None)
    assert paths(Shape(rtt_ms=1), less_delay=0.002)[0].delay_seconds == 0.0


@pytest.mark.parametrize(
    "asked",
    [{"rtt_ms": -1.0}, {"mbit_up": -3.0}, {"rtt_ms": 1.0, "jitter_ms": 2.0}, {"burst": -1}],
)
def test_an_impossible_shape_is_refused(asked: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 or"):
        Shape(**asked)  # type: ignore[arg-type]


async def test_a_round_trip_takes_at_least_what_was_asked() -> None:
    async with (
        await _far() as far,
        Proxy(HOST, _port(far), Shape(rtt_ms=20.0)) as proxy,
    ):
        for _ in range(5):  # a machine under load is late, never early
            measured = await measure(proxy.address, mbit_up=None, mbit_down=None)
            if measured.rtt_ms < 40.0:
                break
    assert 20.0 <= measured.rtt_ms < 40.0


async def test_each_direction_has_its_own_bandwidth() -> None:
    async with (
        await _far() as far,
        Proxy(HOST, _port(far), Shape(mbit_up=16.0, mbit_down=64.0)) as proxy,
    ):
        measured = await measure(proxy.address, mbit_up=16.0, mbit_down=64.0)
    # A machine under load is slower than asked, and faster only by the round trip that is taken
    # off.
    assert 4.0 < measured.mbit_up <= 18.0
    assert 20.0 < measured.mbit_down <= 72.0


async def test_connections_share_a_direction() -> None:
    async with await _far() as far, Proxy(HOST, _port(far), Shape(mbit_up=8.0)) as proxy:
        began = time.perf_counter()
        await asyncio.gather(*(_upload(proxy.address, 50_000) for _ in range(3)))
        took = time.perf_counter() - began
    assert took >= 3 * 50_000 / (8 * MEGABIT)
    assert proxy.up.nbytes == 3 * (50_000 + len(b"u50000\n"))


async def test_connecting_costs_a_round_trip() -> None:
    async with await _far() as far, Proxy(HOST, _port(far), Shape(rtt_ms=50.0)) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.address)
        began = time.perf_counter()
        writer.write(b"e\n")
        await reader.readexactly(1)
        took = time.perf_counter() - began
        writer.close()
    assert took >= 0.1  # one for the handshake, one for the echo


async def test_bytes_arrive_whole_and_in_order_though_delays_vary() -> None:
    async with await _echo() as echo:
        shape = Shape(rtt_ms=10.0, jitter_ms=10.0)
        async with Proxy(HOST, _port(echo), shape) as proxy:
            reader, writer = await asyncio.open_connection(HOST, proxy.address)
            sent = b"".join(bytes([n]) * 300 for n in range(200))
            for first in range(0, len(sent), 300):
                writer.write(sent[first : first + 300])
                await asyncio.sleep(0)
            writer.write_eof()
            got = await reader.read(-1)
            writer.close()
    assert got == sent
    assert proxy.down.nbytes == len(sent)


async def test_reshaping_changes_what_follows_and_keeps_the_counts() -> None:
    async with await _far() as far, Proxy(HOST, _port(far)) as proxy:
        await _upload(proxy.address, 1000)
        before = proxy.up.nbytes
        proxy.reshape(Shape(rtt_ms=30.0))
        assert proxy.up.nbytes == before
        began = time.perf_counter()
        await _upload(proxy.address, 10)
        assert time.perf_counter() - began >= 0.03


async def test_a_far_end_that_is_not_there_closes_the_connection() -> None:
    far = await _far()
    port = _port(far)
    far.close()
    await far.wait_closed()
    async with Proxy(HOST, port) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.address)
        assert await reader.read() == b""
        writer.close()


async def test_leaving_closes_connections_under_way() -> None:
    async with await _far() as far:
        async with Proxy(HOST, _port(far)) as proxy:
            reader, writer = await asyncio.open_connection(HOST, proxy.address)
            writer.write(b"e\n")
            await reader.readexactly(1)
        assert await reader.read() == b""
        writer.close()


async def test_what_crosses_is_noted_with_its_time_on_the_line_and_on_the_way() -> None:
    noted: list[Crossing] = []
    shape = Shape(rtt_ms=20.0, mbit_up=0.8)
    began = time.perf_counter()
    async with await _echo() as echo, Proxy(HOST, _port(echo), shape, note=noted.append) as proxy:
        for text in (b"GET " + bytes(496), b"POST"):
            reader, writer = await asyncio.open_connection(HOST, proxy.address)
            writer.write(text)
            await reader.readexactly(len(text))
            writer.close()
    ended = time.perf_counter()
    assert [(c.way, c.connection, c.size, c.opening[:4]) for c in noted] == [
        ("up", 1, 500, "GET "),
        ("down", 1, 500, "GET "),
        ("up", 2, 4, "POST"),
        ("down", 2, 4, "POST"),
    ]
    assert began < noted[0].sent < noted[-1].arrived <= ended
    up, down = noted[:2]
    assert (up.left - up.sent, down.left - down.sent) == pytest.approx((0.005, 0.0), abs=1e-6)
    assert [c.arrived - c.left for c in noted] == pytest.approx([0.01] * 4, abs=1e-6)
    assert max(len(c.opening) for c in noted) == OPENING


async def _far() -> asyncio.Server:
    return await asyncio.start_server(Far().serve, HOST, 0)


async def _echo() -> asyncio.Server:
    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1000):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    return await asyncio.start_server(back, HOST, 0)


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _upload(port: int, size: int) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"u%d\n" % size + bytes(size))
    await reader.readexactly(1)
    writer.close()


class Noisy(Network):
    """A proxy that takes a time of its own; the machine is busy at some of the measurements."""

    own_ms = 3.0
    overshoot_ms = 1.5
    busy_ms: tuple[float, ...] = ()

    def calibrate(self) -> None:
        self._own_seconds = self._seen(0.0) / 1e3

    def _shaped(self, shape: Shape, own_seconds: float) -> Measured:
        wait = max(0.0, shape.rtt_ms - own_seconds * 1e3)
        return Measured(self._seen(wait + self.overshoot_ms if wait else 0.0), 30.0, 30.0)

    def _seen(self, waited_ms: float) -> float:
        busy, self.busy_ms = (*self.busy_ms, 0.0)[0], self.busy_ms[1:]
        return waited_ms + self.own_ms + busy


@pytest.mark.parametrize("busy_ms", [(), (20.0,), (0.0, 25.0), (19.0, 0.0, 30.0)])
def test_a_round_trip_is_as_asked_whatever_else_the_machine_did(busy_ms: Sequence[float]) -> None:
    with closing(socket.socket()) as control:
        network = Noisy(control, [], 0)
        network.busy_ms = tuple(busy_ms)
        network.calibrate()
        measured = network.emulate(Shape(rtt_ms=40.0))
        assert measured.rtt_ms == pytest.approx(40.0, rel=0.02)
        assert network.emulate(Shape()).rtt_ms == network.own_ms
