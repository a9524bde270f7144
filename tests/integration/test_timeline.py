"""Uploads hide behind the edge's next steps: on a link of 100 ms the edge does not wait for a kept
token's state to arrive.
"""

import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from services.edge.engine import EdgeEngine
from shared.protocol.messages import Want
from tests.support.apps import ask, edge_client, until_cloud_is
from tests.support.prompts import prompts
from tests.support.proxy import Exchange, Proxy, serving
from tests.support.reference import text
from tests.support.results import RESULTS
from tests.support.services import Services
from tests.support.size import Size
from tests.support.steps import Steps, watched

# Each way: what a busy machine adds to a step is little beside it.
DELAY = 0.050
NEW_TOKENS = 48
# A stall of a second is little beside what so many would wait.
MANY_TOKENS = 240
PROMPT_TOKENS = 64
COLUMNS = 100


async def timed(
    services: Services, threshold: float, tokens: int
) -> tuple[list[Exchange], Steps, list[str]]:
    """What passed a proxy of 50 ms each way, the edge's steps, and the tokens' sources."""
    with serving(Proxy(services.cloud.url, delay=DELAY)) as proxy, watched(EdgeEngine) as steps:
        async with edge_client(proxy.url) as edge:
            await until_cloud_is("reachable", edge)
            answer = await ask(
                edge,
                prompts(text(), 1)[0],
                mode="collaborative",
                threshold=threshold,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
            )
        return proxy.blocks(), steps, [t["source"] for t in answer["details"]["tokens"]]


def overlaps(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def span_of(exchange: Exchange) -> tuple[float, float]:
    assert exchange.ended is not None
    return exchange.began, exchange.ended


async def test_uploads_overlap_the_edges_next_steps(services: Services, size: Size) -> None:
    """Every token is kept, so nothing is asked for: each state travels while the edge computes."""
    exchanges, steps, sources = await timed(services, threshold=0.0, tokens=MANY_TOKENS)
    assert set(sources) == {"exit:3"}
    assert {exchange.block.want for exchange in exchanges} == {Want.NOTHING}
    assert len(steps.spans) == MANY_TOKENS, "a step a token"

    # Step n + 1 runs kept token n, and its state goes up during later steps.
    hidden = []
    for exchange in exchanges:
        for position in range(
            exchange.block.start, exchange.block.start + len(exchange.block.tokens)
        ):
            step = max(0, position - PROMPT_TOKENS + 1)
            later = steps.spans[step + 1 :]
            if position >= PROMPT_TOKENS and later:
                hidden.append(any(overlaps(span_of(exchange), each) for each in later))
    assert len(hidden) >= MANY_TOKENS // 2
    assert sum(hidden) >= 0.8 * len(hidden), "most states travel while the edge computes on"

    gaps = [b[0] - a[1] for a, b in pairwise(steps.spans)]
    assert statistics.median(gaps) < DELAY, "no step waits for an upload, which takes 100 ms"
    taken = steps.spans[-1][1] - steps.spans[0][0]
    computing = sum(ended - began for began, ended in steps.spans)
    in_series = computing + MANY_TOKENS * 2 * DELAY
    assert taken < (computing + in_series) / 2
    if size is Size.LONG:
        _write(RESULTS.with_name("timeline.txt"), exchanges, steps)


async def test_a_need_does_not_wait_for_the_upload_before_it(services: Services) -> None:
    """A token to be asked for right after a kept one is asked for while that one still travels."""
    exchanges, _, sources = await timed(services, threshold=0.5, tokens=NEW_TOKENS)
    needs = [exchange for exchange in exchanges if exchange.block.want is Want.NOW]
    uploads = [exchange for exchange in exchanges if exchange.block.want is Want.NOTHING]
    assert len(needs) == sources.count("cloud"), "one request a token asked for"
    assert uploads, "some tokens were kept"
    overtaking = [
        (need.block, upload.block)
        for need in needs
        for upload in uploads
        if overlaps(span_of(need), span_of(upload)) and upload.began < need.began
    ]
    assert overtaking
    for need, upload in overtaking:
        assert need.start >= upload.start + len(upload.tokens), "nothing is sent twice"


def _write(path: Path, exchanges: Sequence[Exchange], steps: Steps) -> None:
    """Draw both lines as text: one column a fixed share of the time from first to last."""
    began = steps.spans[0][0]
    ended = max(steps.spans[-1][1], *(span_of(exchange)[1] for exchange in exchanges))
    scale = COLUMNS / (ended - began)

    def line(spans: Sequence[tuple[float, float]]) -> str:
        cells = [" "] * (COLUMNS + 1)
        for n, (first, last) in enumerate(spans):
            for cell in range(int((first - began) * scale), int((last - began) * scale) + 1):
                cells[cell] = "#="[n % 2]
        return "".join(cells)

    rows = [
        f"edge steps  {line(steps.spans)}",
        f"uploads     {line([*map(span_of, exchanges)])}",
        "",
    ]
    rows += [f"step    {a - began:8.4f} to {b - began:8.4f} s" for a, b in steps.spans]
    for exchange in exchanges:
        first, last = (moment - began for moment in span_of(exchange))
        block = exchange.block
        positions = f"positions {block.start} to {block.start + len(block.tokens) - 1}"
        rows.append(f"upload  {first:8.4f} to {last:8.4f} s  {positions}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
