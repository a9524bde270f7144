"""The key an edge shows its cloud with every request, and what it makes of a refusal."""

import httpx
import pytest

from services.edge.cloud_client import CloudClient
from shared.errors import CloudLost
from tests.unit.edge.test_cloud_client import CALLS, LIMIT, Call, answering, posted


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_every_request_shows_the_key_there_is_now(call: Call) -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.extend(request.headers.get_list("authorization") or [None])
        raise httpx.ConnectError("enough")

    keys = iter([b"Bearer one", b"Bearer two"])
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://cloud"
    ) as http:
        for client in [CloudClient(http, LIMIT, lambda: next(keys))] * 2 + [
            CloudClient(http, LIMIT)
        ]:
            with pytest.raises(CloudLost):
                await call(client)
    assert seen == ["Bearer one", "Bearer two", None]


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_what_an_edge_may_not_is_no_trouble_of_the_path(status: int) -> None:
    with pytest.raises(CloudLost) as lost:
        await posted(answering(b"", status, **{"retry-after": "7"}))
    assert not lost.value.of_the_path
    assert status != 429 or lost.value.retry_after == 7.0
