"""Requests on their way out: what is sent and what is refused, limits, connecting, and the same
answers as httpx's own transport gives.
"""

import asyncio
import socket
import ssl

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.transport import PooledTransport, head_of
from tests.support.raw_server import OK, Peer, once, raw_server, until
from tests.unit.edge.talking import OnLoop, talking

URL = "http://cloud:8001/v1/blocks"


async def _answering(peer: Peer) -> None:
    while await peer.request():
        await asyncio.sleep(0.02)
        await peer.send(OK)


def test_a_request_is_written_as_it_is() -> None:
    request = httpx.Request(
        "POST", f"{URL}?a=b%20c", headers=[(b"X-A", b"1\t2 \xc3\xa9")], content=b"body"
    )
    assert head_of(request, 4) == (
        b"POST /v1/blocks?a=b%20c HTTP/1.1\r\nHost: cloud:8001\r\nX-A: 1\t2 \xc3\xa9\r\n"
        b"Content-Length: 4\r\n\r\n"
    )


REFUSED: dict[str, httpx.Request] = {
    "a header in a value": httpx.Request("POST", URL, headers=[(b"a", b"b\r\nc: d")]),
    "a line feed in a value": httpx.Request("POST", URL, headers=[(b"a", b"b\nc")]),
    "a zero in a value": httpx.Request("POST", URL, headers=[(b"a", b"b\0")]),
    "a header in a name": httpx.Request("POST", URL, headers=[(b"a: b\r\nc", b"d")]),
    "a space in a name": httpx.Request("POST", URL, headers=[(b"a b", b"c")]),
    "no name": httpx.Request("POST", URL, headers=[(b"", b"c")]),
    "a request in a method": httpx.Request("GET / HTTP/1.1\r\nA: b\r\n\r\nPOST", URL),
    "two hosts": httpx.Request("POST", URL, headers=[(b"host", b"a"), (b"host", b"b")]),
    "another length": httpx.Request("POST", URL, headers={"content-length": "9"}, content=b"x"),
    "two lengths": httpx.Request(
        "POST", URL, headers=[(b"content-length", b"1"), (b"content-length", b"2")], content=b"x"
    ),
    "chunks": httpx.Request("POST", URL, headers={"transfer-encoding": "chunked"}, content=b"x"),
    "another protocol": httpx.Request("POST", URL, headers={"upgrade": "websocket"}),
    "no body to an answer": httpx.Request("HEAD", URL),
    "a tunnel": httpx.Request("CONNECT", URL),
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED)
def test_what_would_be_read_as_something_else_is_not_sent(request_: httpx.Request) -> None:
    with pytest.raises(httpx.LocalProtocolError):
        head_of(request_, len(request_.content))


def test_no_more_connections_than_allowed_and_who_waits_is_served(on_loop: OnLoop) -> None:
    async def check() -> None:
        limits = httpx.Limits(max_connections=2, max_keepalive_connections=2)
        async with talking(_answering, limits) as (client, server):
            answers = await asyncio.gather(*(client.post("/", content=b"x") for _ in range(10)))
            assert [each.content for each in answers] == [b"hi"] * 10
            assert len(server.peers) == 2

    on_loop(check())


def test_who_waits_too_long_for_a_connection_is_told(on_loop: OnLoop) -> None:
    async def check() -> None:
        limits = httpx.Limits(max_connections=1)
        times = httpx.Timeout(5, pool=0.01)
        async with talking(_answering, limits, times) as (client, _):
            first = asyncio.create_task(client.post("/", content=b"x"))
            await asyncio.sleep(0)
            with pytest.raises(httpx.PoolTimeout):
                await client.post("/", content=b"x")
            assert (await first).content == b"hi"
            # Nobody's place was lost: not the late one's, and not that of one who goes away.
            leaving = asyncio.create_task(client.post("/", content=b"x"))
            await asyncio.sleep(0.005)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert (await client.post("/", content=b"x")).content == b"hi"

    on_loop(check())


def test_an_idle_connection_makes_room_for_another_address(on_loop: OnLoop) -> None:
    async def check() -> None:
        limits = httpx.Limits(max_connections=1)
        async with talking(_answering, limits) as (client, first), raw_server(once()) as second:
            assert (await client.post("/", content=b"x")).content == b"hi"
            assert (await client.post(f"{first.url}/", content=b"x")).content == b"hi"
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(f"{second.url}/", content=b"x")
            await until(lambda: first.open == 0)

    on_loop(check())


def test_more_idle_connections_than_kept_are_closed(on_loop: OnLoop) -> None:
    async def check() -> None:
        limits = httpx.Limits(max_connections=4, max_keepalive_connections=1)
        async with talking(_answering, limits) as (client, server):
            await asyncio.gather(*(client.post("/", content=b"x") for _ in range(4)))
            await until(lambda: server.open <= 1)
            await asyncio.sleep(0.05)
            assert (len(server.peers), server.open) == (4, 1)

    on_loop(check())


def test_nobody_there_is_a_connection_error(on_loop: OnLoop) -> None:
    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        one = PooledTransport(httpx.Limits(max_connections=1))
        async with httpx.AsyncClient(transport=one) as client:
            for host in ("127.0.0.1", "no.such.host.invalid"):
                with pytest.raises(httpx.ConnectError):
                    await client.post(f"http://{host}:{port}/")
            for url in ("ftp://127.0.0.1/", f"https://127.0.0.1:{port}/"):
                with pytest.raises(httpx.UnsupportedProtocol):
                    await client.post(url)

    on_loop(check())


@pytest.mark.parametrize("speaks", [b"", OK], ids=["silent", "in the clear"])
def test_a_server_without_tls_is_a_connection_error(on_loop: OnLoop, speaks: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(speaks)
        await peer.reader.read()

    async def check() -> None:
        transport = PooledTransport(httpx.Limits(), ssl.create_default_context)
        times = httpx.Timeout(5, connect=30 if speaks else 0.2)
        client = httpx.AsyncClient(transport=transport, timeout=times)
        async with raw_server(script) as server, client:
            with pytest.raises((httpx.ConnectTimeout, httpx.ConnectError)) as failed:
                await client.post(f"https://127.0.0.1:{server.port}/")
            assert isinstance(failed.value, httpx.ConnectTimeout) == (not speaks)

    on_loop(check())


_WORD = st.text("abcXYZ019-_", min_size=1, max_size=12)
_BODY = st.binary(max_size=300)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """The bytes of a right answer, whole or cut short, and where the network parts them."""
    body, framing = draw(_BODY), draw(st.sampled_from(["length", "chunks", "close"]))
    headers = [(f"X-{name}", value) for name, value in draw(st.lists(st.tuples(_WORD, _WORD)))]
    if framing == "length":
        headers.append(("Content-Length", str(len(body))))
    if framing == "chunks":
        headers.append(("Transfer-Encoding", "chunked"))
        size = draw(st.integers(1, 50))
        parts = [body[n : n + size] for n in range(0, len(body), size)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
    status, reason = draw(st.integers(200, 599)), draw(_WORD)
    if status in (204, 304):
        status = 200
    before = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    whole = before + "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    end = draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    return whole[:end], draw(st.lists(st.integers(1, 40), max_size=6))


@given(answers())
def test_answers_are_those_of_httpx_s_own_transport(answer: tuple[bytes, list[int]]) -> None:
    data, sizes = answer
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    script = once(*pieces, data)

    async def outcome(transport: httpx.AsyncBaseTransport) -> object:
        async with raw_server(script) as server, httpx.AsyncClient(transport=transport) as client:
            try:
                got = await client.post(f"{server.url}/", content=b"x")
            except httpx.TransportError as error:
                return type(error)
            return got.status_code, got.reason_phrase, got.headers.multi_items(), got.content

    async def both() -> tuple[object, object]:
        ours = await outcome(PooledTransport(httpx.Limits()))
        return ours, await outcome(httpx.AsyncHTTPTransport(verify=False))

    ours, theirs = asyncio.run(both())
    assert ours == theirs
