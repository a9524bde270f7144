"""The naive split: the same text as the split, and the paper's bytes."""

import httpx
import pytest

from benchmarks.resend import Resending
from services.edge.main import create_app
from services.edge.settings import Settings
from shared.protocol.version import PATH_BLOCKS
from tests.support.apps import Answer, ask, client_of, cloud_app, ids_of, running, until_cloud_is
from tests.support.reference import bundles, loaded

HIDDEN = 256


class Counting(httpx.AsyncBaseTransport):
    """Counts the bytes of blocks, and can lose some on the way."""

    def __init__(self, inner: httpx.AsyncBaseTransport, lose: int | None = None) -> None:
        self.inner, self.lose, self.sizes = inner, lose, list[int]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == PATH_BLOCKS:
            self.sizes.append(len(await request.aread()))
            if len(self.sizes) == self.lose:
                raise httpx.ReadError("lost")
        return await self.inner.handle_async_request(request)


@pytest.mark.parametrize("lose", [None, 4])
async def test_every_token_carries_the_whole_prefix(lose: int | None) -> None:
    plain, _ = await _split(resend=False)
    naive, counting = await _split(resend=True, lose=lose)
    assert ids_of(naive) == ids_of(plain)
    prompt = naive["details"]["usage"]["prompt_tokens"]
    rows = [prompt + i for i in range(10)]
    if lose is not None:  # asked for once more, from where it was lost
        rows.insert(lose, rows[lose - 1])
    # Beyond the states, a frame has its fields, and 4 bytes or fewer a token id.
    beyond = [size - n * HIDDEN * 4 for size, n in zip(counting.sizes, rows, strict=True)]
    assert 0 < min(beyond) <= max(beyond) < 700


async def test_sessions_end_with_their_requests() -> None:
    _, counting = await _split(resend=True)
    assert isinstance(counting.parent, Resending)
    assert not counting.parent._sessions


async def _split(*, resend: bool, lose: int | None = None) -> tuple[Answer, "_Seen"]:
    cloud = cloud_app()
    seen = _Seen(httpx.ASGITransport(cloud), lose)
    transport = Resending(seen, HIDDEN) if resend else seen
    seen.parent = transport
    settings = Settings(bundle=bundles().edge, threads=1, cloud_url="http://cloud")
    app = create_app(settings, loaded(bundles().edge), cloud_transport=transport)
    async with running(cloud), running(app), client_of(app) as edge:
        await until_cloud_is("reachable", edge)
        answer = await ask(edge, "Once upon a time", mode="split", codec="fp32", max_new_tokens=10)
    return answer, seen


class _Seen(Counting):
    parent: httpx.AsyncBaseTransport | None = None
