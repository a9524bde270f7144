"""What an answer says it cost is what a proxy between edge and cloud counts, to the byte."""

from collections import Counter
from typing import Any

import pytest

from shared.protocol.messages import Want
from tests.support.apps import ask, edge_client, until_cloud_is
from tests.support.prompts import prompts
from tests.support.proxy import Proxy, serving
from tests.support.reference import text
from tests.support.services import Services

ASKED: list[dict[str, Any]] = [
    {"mode": "cloud"},
    {"mode": "split"},
    {"mode": "split", "codec": "int8"},
    {"mode": "collaborative", "threshold": 1.0, "codec": "fp32"},
    {"mode": "collaborative"},
    {"mode": "collaborative", "threshold": 0.0},
    {"mode": "collaborative", "threshold": 0.3, "temperature": 0.8, "seed": 3},
    {"mode": "standalone"},
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: " ".join(map(str, asked.values())))
async def test_usage_is_what_a_proxy_counts(services: Services, asked: dict[str, Any]) -> None:
    proxy = Proxy(services.cloud.url, delay=0.005)
    with serving(proxy):
        async with edge_client(proxy.url) as edge:
            await until_cloud_is("reachable", edge)
            answer = await ask(edge, prompts(text(), 1)[0], max_new_tokens=32, **asked)
        details, usage = answer["details"], answer["details"]["usage"]
        blocks = proxy.blocks()
    sources = Counter(token["source"] for token in details["tokens"])
    assert usage["tokens_by_source"] == sources
    assert usage["prompt_tokens"] == 64
    assert usage["completion_tokens"] == details["generated_tokens"] == sources.total()
    assert usage["cached_tokens"] == 0

    asking = [exchange for exchange in blocks if exchange.block.want is Want.NOW]
    assert usage["cloud_requests"] == len(asking)
    assert usage["cloud_passes"] == max((r.passes for e in blocks for r in e.reports), default=0)
    assert usage["bytes_up"] == sum(len(exchange.up) for exchange in blocks)
    # An upload is never waited for, so the last one may be answered after the last token: its
    # report is in the account or not, and nothing else may be missing.
    down = sum(len(exchange.down) for exchange in blocks)
    uploads = [exchange for exchange in blocks if exchange.block.want is Want.NOTHING]
    late = len(uploads[-1].down) if uploads and uploads[-1] is blocks[-1] else 0
    assert usage["bytes_down"] in {down, down - late}
    assert usage["bytes_down"] == down or asked["mode"] == "collaborative"

    if asked["mode"] == "standalone":
        assert not blocks
        assert usage["network_seconds"] == usage["cloud_compute_seconds"] == 0
    elif sources["cloud"]:
        assert usage["cloud_compute_seconds"] > 0
    if asked["mode"] != "cloud":  # in a stream the cloud computes on while the edge takes in
        assert usage["network_seconds"] >= len(asking) * 2 * proxy.delay * 0.9


async def test_what_goes_up_is_the_prompt_and_every_token_once(services: Services) -> None:
    """States are not sent twice on a calm network, and each stands at its own position."""
    proxy = Proxy(services.cloud.url)
    with serving(proxy):
        async with edge_client(proxy.url) as edge:
            await until_cloud_is("reachable", edge)
            answer = await ask(edge, prompts(text(), 1)[0], mode="collaborative", max_new_tokens=32)
    blocks = [exchange.block for exchange in proxy.blocks()]
    positions = [block.start + n for block in blocks for n in range(len(block.tokens))]
    assert sorted(positions) == [*range(len(positions))]
    assert len(positions) >= 64
    sent = [token for block in blocks for token in block.tokens][64:]
    made = [token["id"] for token in answer["details"]["tokens"]]
    assert sent == made[: len(sent)]
    for block in blocks:
        assert block.states is not None
        assert block.states.shape[0] == len(block.tokens)
