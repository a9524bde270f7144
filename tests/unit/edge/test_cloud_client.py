"""Whatever a transport or a cloud does, the edge sees one of its own errors, with a reason that
says what to do.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.cloud_client import CloudClient, Traffic
from shared.errors import CloudLost, Invalid, TandemError, Unfit
from shared.protocol.messages import Block, Close, Fault, Message, Pressure, Report
from shared.protocol.version import PROTOCOL_VERSION
from shared.protocol.wire import encode

LIMIT = 4096
BLOCK = Block(
    session="s",
    sequence=1,
    revision=0,
    acknowledged=0,
    parent=bytes(8),
    start=0,
    tokens=(1,),
    binding=1,
)
IDLE = Pressure(queued=0, allowed_nodes=0)
REPORT = Report(session="s", revision=0, sequence=1, through=1, digest=bytes(8), pressure=IDLE)
OTHERS = Report(session="t", revision=0, sequence=1, through=1, digest=bytes(8), pressure=IDLE)

Answer = Callable[[httpx.Request], httpx.Response]


class Chunks(httpx.AsyncByteStream):
    """A body in pieces, with an error in the end if one is given."""

    def __init__(self, pieces: Sequence[bytes], error: Exception | None = None) -> None:
        self._pieces, self._error = pieces, error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._error is not None:
            raise self._error


def answering(body: bytes | Message, status: int = 200, **headers: str) -> Answer:
    content = body if isinstance(body, bytes) else encode(body)
    return lambda request: httpx.Response(status, content=content, headers=headers)


async def posted(answer: Answer, traffic: Traffic | None = None) -> Report:
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://cloud"
    ) as http:
        return await CloudClient(http, LIMIT).post([BLOCK], traffic or Traffic())


async def streamed(
    answer: Answer, seen: list[Report], traffic: Traffic | None = None
) -> list[Report]:
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://cloud"
    ) as http:
        async for report in CloudClient(http, LIMIT).stream([BLOCK], traffic or Traffic()):
            seen.append(report)
    return seen


def piecewise(pieces: Sequence[bytes], error: Exception | None = None) -> Answer:
    return lambda request: httpx.Response(200, stream=Chunks(pieces, error))


async def _drained(client: CloudClient) -> None:
    async for report in client.stream([BLOCK], Traffic()):
        assert report == REPORT


Call = Callable[[CloudClient], Awaitable[object]]
CALLS: dict[str, Call] = {
    "post": lambda client: client.post([BLOCK], Traffic()),
    "stream": _drained,
    "manifest": lambda client: client.manifest(),
    "close": lambda client: client.close("s", 0),
}


def _concrete(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(_concrete(below) for below in kind.__subclasses__()))


# What only a caller's own mistake raises, never a transport.
OURS = {httpx.HTTPStatusError}
REASONS = {
    httpx.ConnectTimeout: "timeout",
    httpx.ReadTimeout: "timeout",
    httpx.WriteTimeout: "timeout",
    httpx.PoolTimeout: "pool",
    httpx.TimeoutException: "timeout",
    httpx.ConnectError: "refused",
    httpx.ReadError: "broken",
    httpx.WriteError: "broken",
    httpx.CloseError: "broken",
    httpx.NetworkError: "broken",
    httpx.ProtocolError: "broken",
    httpx.LocalProtocolError: "broken",
    httpx.RemoteProtocolError: "broken",
    httpx.ProxyError: "broken",
    httpx.UnsupportedProtocol: "broken",
    httpx.DecodingError: "broken",
    httpx.TooManyRedirects: "broken",
    httpx.TransportError: "broken",
    httpx.RequestError: "broken",
    httpx.HTTPError: "broken",
}


def test_every_error_httpx_can_raise_has_its_reason() -> None:
    assert _concrete(httpx.HTTPError) - OURS == set(REASONS)


@pytest.mark.parametrize(
    ("kind", "reason"), REASONS.items(), ids=lambda v: getattr(v, "__name__", v)
)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("answered", [False, True], ids=["at once", "within the answer"])
async def test_a_transports_error_is_a_lost_cloud(
    *, kind: type[Exception], reason: str, call: Call, answered: bool
) -> None:
    error = kind("as scripted")

    def fail(request: httpx.Request) -> httpx.Response:
        if answered:
            return httpx.Response(200, stream=Chunks([encode(REPORT)], error))
        raise error

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(fail), base_url="http://cloud"
    ) as http:
        with pytest.raises(CloudLost) as lost:
            await call(CloudClient(http, LIMIT))
    assert lost.value.reason == reason
    assert lost.value.__cause__ is error


FAULTS = [
    (409, Fault(code="mismatch", message="other model"), Unfit, "mismatch"),
    (400, Fault(code="protocol_version", message="old"), Unfit, "mismatch"),
    (422, Fault(code="invalid", message="no", field="mode"), Invalid, "invalid"),
    (400, Fault(code="checksum", message="damaged"), CloudLost, "checksum"),
    (413, Fault(code="too_large", message="big"), CloudLost, "too_large"),
    (500, Fault(code="compute", message="NaN"), CloudLost, "compute"),
    (503, Fault(code="overloaded", message="full", retryable=True), CloudLost, "overloaded"),
    (503, Fault(code="mismatch", message="x"), CloudLost, "other"),
    (401, Fault(code="unauthorized", message="key?"), CloudLost, "unauthorized"),
    (401, b"", CloudLost, "unauthorized"),
    (403, Fault(code="forbidden", message="no"), CloudLost, "forbidden"),
    (404, Fault(code="not_found", message="no such session"), CloudLost, "not_found"),
    (429, Fault(code="limited", message="slow", retryable=True), CloudLost, "limited"),
    (429, b"<html>", CloudLost, "limited"),
    (502, b"<html>bad gateway</html>", CloudLost, "status_502"),
    (404, b"", CloudLost, "status_404"),
    (307, b"", CloudLost, "status_307"),
    (204, b"", CloudLost, "status_204"),
]


@pytest.mark.parametrize("call", [posted, lambda answer: streamed(answer, [])])
@pytest.mark.parametrize(("status", "body", "kind", "reason"), FAULTS)
async def test_a_refusal_is_the_error_that_says_what_to_do(
    call: Callable[[Answer], Awaitable[object]],
    status: int,
    body: Fault | bytes,
    kind: type[TandemError],
    reason: str,
) -> None:
    with pytest.raises(kind) as refused:
        await call(answering(body, status))
    error = refused.value
    assert type(error) is kind
    assert (error.reason if isinstance(error, CloudLost) else error.code) == reason
    if isinstance(body, Fault) and kind is Invalid:
        assert error.field == body.field


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("", 1.0), ("soon", 1.0), ("-1", 1.0), ("1.5", 1.0), ("9" * 400, 3600.0)],
)
async def test_retry_after_is_taken_where_it_is_a_number(header: str, seconds: float) -> None:
    with pytest.raises(CloudLost) as lost:
        await posted(answering(b"", 503, **{"retry-after": header}))
    assert lost.value.retry_after == seconds


async def test_a_retry_after_of_exotic_digits_is_no_crash() -> None:
    answer = httpx.Response(503, headers=[(b"retry-after", b"\xb2")])
    with pytest.raises(CloudLost) as lost:
        await posted(lambda request: answer)
    assert lost.value.retry_after == 1.0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"TD",
        b"<html>",
        encode(REPORT)[:-1],
        encode(REPORT) + b"\0",
        encode(REPORT)[:-1] + b"\0",
        encode(BLOCK),
        encode(Close(session="s", revision=0)),
        encode(OTHERS),
        bytes(LIMIT + 1),
    ],
)
async def test_an_answer_that_is_no_report_of_this_session_is_a_lost_cloud(body: bytes) -> None:
    with pytest.raises(CloudLost) as lost:
        await posted(answering(body))
    assert lost.value.reason == "malformed"


@given(body=st.binary(max_size=64), status=st.sampled_from([200, 204, 400, 404, 500, 503]))
def test_no_body_makes_it_raise_anything_else(body: bytes, status: int) -> None:
    with pytest.raises(CloudLost):
        asyncio.run(posted(answering(body, status)))
    with pytest.raises(CloudLost):
        asyncio.run(_stream_and_expect_more(answering(body, status)))


async def _stream_and_expect_more(answer: Answer) -> None:
    await streamed(answer, [])
    raise CloudLost("an empty stream has no report", reason="empty")


@given(sizes=st.lists(st.integers(1, 40), max_size=12), count=st.integers(1, 4))
def test_reports_are_found_however_the_network_cuts_them(sizes: list[int], count: int) -> None:
    body, pieces = encode(REPORT) * count, []
    for size in sizes:
        pieces.append(body[:size])
        body = body[size:]
    traffic = Traffic()
    assert asyncio.run(streamed(piecewise([*pieces, body]), [], traffic)) == [REPORT] * count
    assert traffic == Traffic(len(encode(BLOCK)), len(encode(REPORT)) * count)


@pytest.mark.parametrize("cut", [1, 7, 8, 30, len(encode(REPORT)) - 1])
async def test_a_stream_that_ends_within_a_report_is_broken(cut: int) -> None:
    seen: list[Report] = []
    with pytest.raises(CloudLost) as lost:
        await streamed(piecewise([encode(REPORT), encode(REPORT)[:cut]]), seen)
    assert (seen, lost.value.reason) == ([REPORT], "broken")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(code="overloaded", message="full", retryable=True), CloudLost),
        (Fault(code="mismatch", message="other"), Unfit),
        (Fault(code="invalid", message="no", field="count"), Invalid),
    ],
)
async def test_a_fault_within_a_stream_ends_it(fault: Fault, kind: type[TandemError]) -> None:
    seen: list[Report] = []
    with pytest.raises(kind, match=fault.message):
        await streamed(piecewise([encode(REPORT) + encode(fault)]), seen)
    assert seen == [REPORT]


async def test_a_frame_over_the_limit_is_refused_before_it_has_come() -> None:
    huge = b"TD" + bytes([PROTOCOL_VERSION, 2]) + (LIMIT).to_bytes(4, "little")
    with pytest.raises(CloudLost, match="over the limit"):
        await streamed(piecewise([huge]), [])


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"\xff", b"{"])
async def test_a_manifest_that_is_no_object_is_a_lost_cloud(body: bytes) -> None:
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answering(body)), base_url="http://cloud"
    ) as http:
        with pytest.raises(CloudLost) as lost:
            await CloudClient(http, LIMIT).manifest()
    assert lost.value.reason == "malformed"
