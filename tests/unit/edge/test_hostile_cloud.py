"""A cloud may answer whatever it likes: the edge takes in a bounded part of it, and says so."""

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from services.edge.cloud_client import CloudClient, Traffic
from shared.errors import CloudLost
from tests.unit.edge.test_cloud_client import BLOCK, LIMIT

Call = Callable[[CloudClient], Awaitable[object]]


async def _streamed(client: CloudClient) -> object:
    return [report async for report in client.stream([BLOCK], Traffic())]


CALLS: dict[str, Call] = {
    "manifest": lambda client: client.manifest(),
    "post": lambda client: client.post([BLOCK], Traffic()),
    "stream": _streamed,
    "close": lambda client: client.close("s", 0),
}


class Endless(httpx.AsyncByteStream):
    """A body that goes on for as long as somebody reads it; `sent` says how long that was."""

    def __init__(self, piece: bytes) -> None:
        self._piece = piece
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.sent += len(self._piece)
            yield self._piece


async def lost(call: Call, status: int, body: httpx.AsyncByteStream, **headers: str) -> CloudLost:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=body, headers=headers)

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://cloud"
    ) as http:
        with pytest.raises(CloudLost) as raised:
            await call(CloudClient(http, LIMIT))
    return raised.value


@pytest.mark.parametrize("status", [200, 204, 400, 503])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_no_more_of_an_answer_is_taken_in_than_a_report_has(call: Call, status: int) -> None:
    body = Endless(bytes(1000))
    error = await lost(call, status, body)
    assert error.reason == "malformed"
    assert body.sent <= LIMIT + 1000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_compressed_answer_is_not_unpacked(call: Call, status: int, encoding: str) -> None:
    body = Endless(gzip.compress(bytes(1 << 20)))
    error = await lost(call, status, body, **{"content-encoding": encoding})
    assert error.reason == "malformed"
    assert "compressed" in error.message
    assert body.sent == 0


class Once(httpx.AsyncByteStream):
    """A body in one piece."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


@pytest.mark.parametrize("body", [b"[" * 4000, b'{"a":' * 800, b"9" * 4090, b"\xff", b"1", b""])
async def test_a_manifest_that_is_none_is_refused(body: bytes) -> None:
    error = await lost(CALLS["manifest"], 200, Once(body))
    assert error.reason == "malformed"
