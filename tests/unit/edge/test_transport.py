"""The transport against servers that break every rule: an answer, or one of httpx's errors; and
never a connection that somebody else's bytes are still to come on.
"""

import asyncio

import httpx
import pytest

from services.edge.reply import LONGEST_HEAD
from tests.support.raw_server import OK, Peer, once, until
from tests.unit.edge.talking import OnLoop, talking

HEAD = b"HTTP/1.1 200 OK\r\n"
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 2",
    "half a head": HEAD + b"Content-Le",
    "no end of the head": HEAD + b"Content-Length: 2\r\n",
    "a body cut short": HEAD + b"Content-Length: 9\r\n\r\nhi",
    "no body": HEAD + b"Content-Length: 9\r\n\r\n",
    "a chunk cut short": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    "no last chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    "a chunk of no size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "chunks and a length": HEAD
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\nhi",
    "a length in words": HEAD + b"Content-Length: two\r\n\r\nhi",
    "a folded header": HEAD + b"A: b\r\n c\r\nContent-Length: 2\r\n\r\nhi",
    "a space in a name": HEAD + b"Content Length: 2\r\n\r\nhi",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "another protocol": b"220 mail.example ESMTP\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "a change of protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "an endless name": HEAD + b"a" * (LONGEST_HEAD + 9),
    "an endless value": HEAD + b"A: " + b"a" * (LONGEST_HEAD + 9),
    "endless headers": HEAD + b"A: b\r\n" * (LONGEST_HEAD // 6 + 9),
    "endless announcements": b"HTTP/1.1 103 Early\r\n\r\n" * (LONGEST_HEAD // 22 + 9),
    "an endless chunk size": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;"
    + b"x" * (9 * LONGEST_HEAD),
    "endless trailers": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
    + b"A: b\r\n" * (9 * LONGEST_HEAD // 6),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_is_none_is_an_error_and_ends_the_connection(
    on_loop: OnLoop, answer: bytes
) -> None:
    async def check() -> None:
        async with talking(once(answer)) as (client, server):
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/", content=b"x")
            assert (await client.post("/", content=b"x")).content == b"hi"
            assert len(server.peers) == 2

    on_loop(check())


WHOLE: dict[str, tuple[bytes, bytes]] = {
    "longer than it says": (OK + b"gh", b"hi"),
    "two answers": (OK + OK, b"hi"),
    "garbage after it": (OK + b"\0\xff\r\n" * 9, b"hi"),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\nall there is", b"all there is"),
    "the last of its connection": (OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), b"hi"),
    "of HTTP/1.0": (OK.replace(b"1.1", b"1.0"), b"hi"),
    "announced": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n" + OK, b"hi"),
    "with trailers": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\nA: b\r\n\r\n",
        b"hi",
    ),
    "without body": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
}


@pytest.mark.parametrize(("answer", "body"), WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_answer_that_is_whole_is_given_whatever_surrounds_it(
    on_loop: OnLoop, answer: bytes, body: bytes, size: int
) -> None:
    pieces = [answer[n : n + size] for n in range(0, len(answer), size)]

    async def check() -> None:
        async with talking(once(*pieces)) as (client, server):
            first = await client.post("/", content=b"x")
            assert first.status_code in (200, 204)
            assert first.content == body
            assert "a" not in first.headers
            await until(lambda: server.open == 0)
            assert (await client.post("/", content=b"x")).content == b"hi"

    on_loop(check())


async def echo(peer: Peer) -> None:
    """Answer every request with its own body."""
    while request := await peer.request():
        body = request.partition(b"\r\n\r\n")[2]
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def test_a_connection_is_used_again_and_again(on_loop: OnLoop) -> None:
    async def check() -> None:
        async with talking(echo) as (client, server):
            for size in (0, 1, 100, 1_000_000, 3):
                assert (await client.post("/", content=b"x" * size)).content == b"x" * size
            assert len(server.peers) == 1

    on_loop(check())


def test_many_at_once_each_get_their_own_answer(on_loop: OnLoop) -> None:
    async def check() -> None:
        async with talking(echo) as (client, server):

            async def ask(who: int) -> None:
                for n in range(25):
                    body = b"%d %d" % (who, n)
                    assert (await client.post("/", content=body)).content == body

            async with asyncio.timeout(60):
                await asyncio.gather(*map(ask, range(12)))
            assert len(server.peers) <= 4

    on_loop(check())


def test_an_answer_before_the_whole_request_is_given(
    on_loop: OnLoop,
) -> None:
    async def script(peer: Peer) -> None:
        if peer.number:
            await once()(peer)
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    async def check() -> None:
        async with talking(script) as (client, server):
            assert (await client.post("/", content=bytes(30_000_000))).status_code == 413
            assert (await client.post("/", content=b"x")).content == b"hi"
            server.peers[0].writer.transport.abort()
            server.peers.pop(0)

    on_loop(check())


LAST = ["longer than it says", "two answers", "garbage after it", "the last of its connection"]


@pytest.mark.parametrize("answer", [WHOLE[name][0] for name in [*LAST, "of HTTP/1.0"]])
def test_after_such_an_answer_the_connection_is_not_used_again(
    on_loop: OnLoop, answer: bytes
) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(OK if peer.number else answer)

    async def check() -> None:
        async with talking(script) as (client, server):
            for _ in range(2):
                assert (await client.post("/", content=b"x")).content == b"hi"
            assert len(server.peers) == 2
            assert server.open == 1

    on_loop(check())


@pytest.mark.parametrize("answer", [BROKEN[name] for name in BROKEN if "endless" in name])
def test_what_has_no_end_is_not_waited_for(on_loop: OnLoop, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await peer.reader.read()

    async def check() -> None:
        async with talking(script) as (client, _):
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/", content=b"x")

    on_loop(check())
