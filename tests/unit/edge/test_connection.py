"""Connections of the transport over time: silence, resets, idleness, readers who leave or do not
read; nothing of it is left.
"""

import asyncio
import gc
import os
import socket

import httpx
import pytest

from services.edge.connection import UNREAD_BYTES
from tests.support.raw_server import OK, Peer, once, until
from tests.unit.edge.talking import OnLoop, talking

HEAD = b"HTTP/1.1 200 OK\r\n"
QUICK = httpx.Timeout(5, read=0.15)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nConte", OK[:-1]], ids=len)
def test_silence_is_a_read_time_out(on_loop: OnLoop, sent: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        await peer.reader.read()

    async def check() -> None:
        async with talking(script, timeouts=QUICK) as (client, server):
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/", content=b"x")
            await until(lambda: server.open == 0)

    on_loop(check())


def test_slow_bytes_are_no_silence(on_loop: OnLoop) -> None:
    async def check() -> None:
        pieces = [OK[n : n + 4] for n in range(0, len(OK), 4)]
        patient = httpx.Timeout(5, read=2.0)  # less than all of them take
        async with talking(once(*pieces, pause=0.25), timeouts=patient) as (client, _):
            assert (await client.post("/", content=b"x")).content == b"hi"

    on_loop(check())


@pytest.mark.parametrize("sent", [b"", HEAD, OK[:-1]], ids=len)
def test_a_reset_is_a_read_error(on_loop: OnLoop, sent: bytes) -> None:
    async def check() -> None:
        async with talking(once(sent, pause=0.02, then=Peer.reset)) as (client, _):
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await client.post("/", content=b"x")
            assert (await client.post("/", content=b"x")).content == b"hi"

    on_loop(check())


@pytest.mark.parametrize("how", ["closed", "reset", "spoken on"])
@pytest.mark.parametrize("told", [True, False], ids=["the loop knows", "the loop does not know"])
def test_a_connection_that_ended_while_idle_is_not_used(
    on_loop: OnLoop, how: str, told: bool
) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(OK)

    async def check() -> None:
        async with talking(script) as (client, server):
            assert (await client.post("/", content=b"x")).content == b"hi"
            peer = server.peers[0]
            if how == "closed":
                number = os.dup(peer.writer.get_extra_info("socket").fileno())
                with socket.socket(fileno=number) as same:
                    same.shutdown(socket.SHUT_RDWR)
            elif how == "reset":
                peer.reset()
            else:
                peer.writer.write(OK)
            if told:
                await asyncio.sleep(0.05)
            elif how != "closed":
                await asyncio.sleep(0)
            assert (await client.post("/", content=b"x")).content == b"hi"
            assert len(server.peers) == 2

    on_loop(check())


def test_a_connection_idle_for_too_long_is_not_used(
    on_loop: OnLoop,
) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(OK)

    async def check() -> None:
        limits = httpx.Limits(max_connections=4, keepalive_expiry=0.05)
        async with talking(script, limits) as (client, server):
            for _ in range(2):
                await client.post("/", content=b"x")
                await asyncio.sleep(0.1)
            assert len(server.peers) == 2

    on_loop(check())


def test_who_goes_away_takes_the_connection_along(
    on_loop: OnLoop,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.reader.read()

    async def check() -> None:
        async with talking(script) as (client, server):
            asking = asyncio.create_task(client.post("/", content=b"x"))
            await until(lambda: len(server.peers) == 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await until(lambda: server.open == 0)

    on_loop(check())


def test_a_stream_comes_as_it_is_sent_and_may_be_left(
    on_loop: OnLoop,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await peer.reader.read()

    async def check() -> None:
        async with talking(script) as (client, server):
            async with client.stream("POST", "/", content=b"x") as response:
                async for piece in response.aiter_raw():
                    assert piece == b"one"
                    break
            await until(lambda: server.open == 0)

    on_loop(check())


def test_what_nobody_reads_stays_with_the_server(
    on_loop: OnLoop,
) -> None:
    size, sent = 40 * 1024 * 1024, 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        while await peer.request():
            await peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % size)
            sent = 0
            while sent < size:
                await peer.send(bytes(65536))
                sent += 65536

    async def check() -> None:
        async with talking(script) as (client, server):
            async with client.stream("POST", "/", content=b"x") as response:
                await asyncio.sleep(0.3)
                # Beyond what is let in, the kernel's own buffers hold some.
                assert sent < size / 2 + UNREAD_BYTES
                taken = sum([len(piece) async for piece in response.aiter_raw()])
            assert taken == size
            await client.post("/", content=b"x")
            assert len(server.peers) == 1

    on_loop(check())


def test_a_server_that_takes_nothing_is_a_write_time_out(
    on_loop: OnLoop,
) -> None:
    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    async def check() -> None:
        async with talking(script, timeouts=httpx.Timeout(5, write=0.2)) as (client, server):
            with pytest.raises(httpx.WriteTimeout):
                await client.post("/", content=bytes(30_000_000))
            server.peers[0].writer.transport.abort()
            server.peers.clear()

    on_loop(check())


def test_nothing_is_left_of_a_hundred_failures(on_loop: OnLoop) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number % 3 == 0:
            peer.reset()
        elif peer.number % 3 == 1:
            await peer.send(HEAD)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def check() -> None:
        async with talking(once(OK)) as (client, _):  # the loop's own descriptors
            await client.post("/", content=b"x")
        gc.collect()
        before = descriptors()
        async with talking(script) as (client, _):
            for _ in range(100):
                with pytest.raises(httpx.TransportError):
                    await client.post("/", content=b"x")
            await until(lambda: descriptors() <= before + 4)
        await until(lambda: descriptors() <= before)

    on_loop(check())
