"""What a request to the cloud says of itself beyond its body: whose it is, and how long the edge
waits for the answer.
"""

import httpx
import pytest

from services.edge.cloud_client import CloudClient, Traffic
from shared.logs import request_id
from shared.protocol.messages import Block, Pressure, Report
from shared.protocol.version import HEADER_REQUEST_ID, HEADER_TIMEOUT, MEDIA_TYPE
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


async def test_the_request_id_goes_along() -> None:
    sent: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, content=encode(REPORT))

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(note), base_url="http://cloud"
    ) as http:
        client = CloudClient(http, LIMIT)
        token = request_id.set("rid-1")
        try:
            await client.post([BLOCK], Traffic())
        finally:
            request_id.reset(token)
        await client.post([BLOCK], Traffic())
    assert [r.headers.get(HEADER_REQUEST_ID) for r in sent] == ["rid-1", None]
    assert {r.headers["accept"] for r in sent} == {MEDIA_TYPE}


@pytest.mark.parametrize(
    ("own", "left", "told"), [(10.0, None, 10_000), (10.0, 2.5, 2_500), (2.0, 2.5, 2_000)]
)
async def test_the_cloud_is_told_how_long_the_edge_waits_and_it_waits_no_longer(
    own: float, left: float | None, told: int
) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, content=encode(REPORT))

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://cloud", timeout=own
    ) as http:
        await CloudClient(http, LIMIT).post([BLOCK], Traffic(), seconds=left)
    assert sent[0].headers[HEADER_TIMEOUT] == str(told)
    assert sent[0].extensions["timeout"]["read"] == told / 1000
    assert sent[0].extensions["timeout"]["connect"] == own


def test_a_client_that_waits_for_good_says_nothing_of_time() -> None:
    client = CloudClient(httpx.AsyncClient(base_url="http://cloud", timeout=None), LIMIT)
    assert HEADER_TIMEOUT not in client._request("/v1/blocks", b"", None).headers
    assert client._request("/v1/blocks", b"", None, 2.0).headers[HEADER_TIMEOUT] == "2000"
