"""What a load is summed up to: numbers, remarks, a picture."""

from pathlib import Path

import httpx
import pytest

from cli.load.plot import plot
from cli.load.report import remarks, report
from cli.load.requests import Seen
from cli.load.run import Shape
from cli.load.summary import spread, summarize
from tests.support.mock_edge import events, load, run, streamed


async def test_throughput_counts_only_what_arrived_while_the_load_was_on() -> None:
    seen = Seen("e", "cloud", due=10.0, sent=10.0, token_times=[10.5, 11.0, 12.5], ended=13.0)
    seen.sources.update({"cloud": 2, "exit:3": 1})
    seen.usage = {"cloud_compute_seconds": 0.3}
    summary = summarize([seen], started=10.0, window=2.0)
    assert summary.tokens_per_second == 1.0
    assert (summary.tokens, summary.offload_ratio) == (3, 2 / 3)
    assert summary.cloud_seconds_per_token == pytest.approx(0.1)
    assert summary.time_to_first_token_seconds.p50 == 0.5
    assert (summary.inter_token_seconds.p50, summary.inter_token_seconds.p99) == (0.5, 1.5)
    assert summary.request_seconds.mean == 3.0


def test_percentiles_are_by_nearest_rank() -> None:
    hundred = spread(float(n) for n in range(1, 101))
    assert (hundred.p50, hundred.p95, hundred.p99, hundred.mean) == (50, 95, 99, 50.5)
    assert spread([7.0]).p50 == spread([7.0]).p99 == 7.0
    assert spread([]).p95 is None


async def test_a_picture_is_drawn(tmp_path: Path) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return streamed(events("exit:3", "cloud", "cloud"), pause=0.01)

    asked = load(answer)
    seen = await run(asked, Shape(2, None, None, 6))
    plot(seen, started=asked.started, window=2.0, file=tmp_path / "load.png")
    assert (tmp_path / "load.png").stat().st_size > 10_000


async def test_what_the_edge_said_of_the_first_failure_is_shown() -> None:
    answers = [
        httpx.Response(422, json={"error": "parameters.codec: no such codec"}),
        httpx.Response(422, json={"error": "another"}),
        httpx.Response(502, text="Bad gateway"),
    ]

    async def answer(request: httpx.Request) -> httpx.Response:
        return answers.pop(0)

    seen = await run(load(answer), Shape(users=1, rate=None, seconds=None, requests=3))
    told = report(seen, ["edge-0"], began=0, window=1, started="", load={})
    assert remarks(told)[:2] == [
        "failed: 2 × http_422 (parameters.codec: no such codec)",
        "failed: 1 × http_502 (Bad gateway)",
    ]


async def test_an_edge_nobody_asked_is_named() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return streamed(events("cloud"))

    seen = await run(load(answer, edges=3), Shape(users=2, rate=None, seconds=None, requests=4))
    told = report(seen, ["edge-0", "edge-1", "edge-2"], began=0, window=1, started="", load={})
    assert "nothing was asked of edge-2: more edges than users or sessions" in remarks(told)


async def test_what_a_request_cost_is_divided_by_the_tokens_of_those_that_told() -> None:
    whole = Seen("e", "cloud", due=0.0, token_times=[1.0, 2.0], ended=2.0)
    whole.sources.update({"cloud": 2})
    whole.usage = {"cloud_compute_seconds": 0.4, "bytes_up": 10}
    broken = Seen("e", "cloud", due=0.0, token_times=[1.0], ended=1.5, error="broken")
    broken.sources.update({"cloud": 1})
    summary = summarize([whole, broken], started=0.0, window=4.0)
    assert summary.cloud_seconds_per_token == pytest.approx(0.2)
    assert summary.bytes_up_per_token == 5
