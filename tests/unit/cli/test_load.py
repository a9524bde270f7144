"""The load generator against edges made of nothing: what it asks, when, and what it counts."""

import asyncio
import itertools
import json
import math
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from cli.errors import CommandError
from cli.load import plan
from cli.load.plot import check
from cli.load.progress import Progress
from cli.load.report import remarks, report
from cli.load.requests import Seen
from cli.load.run import Load, Shape
from cli.load.summary import summarize
from tests.support.mock_edge import MODES, events, load, run, streamed


async def test_a_session_depends_on_seed_and_number_only() -> None:
    one, same, other = (plan.Plan(["a", "b"], MODES, 3, 4, seed) for seed in (1, 1, 2))
    sessions = [one.session(number, number) for number in range(50)]
    assert sessions == [same.session(number, number) for number in range(50)]
    assert sessions != [other.session(number, number) for number in range(50)]
    assert Counter(each.edge for each in sessions) == {0: 17, 1: 17, 2: 16}


async def test_modes_come_by_their_weights() -> None:
    sessions = plan.Plan(["a"], MODES, 1, 1, 0)
    seen = Counter(sessions.session(number, 0).mode for number in range(2000))
    assert seen["collaborative"] / 2000 == pytest.approx(0.75, abs=0.03)


async def test_arrivals_are_a_poisson_process() -> None:
    times = [time for time, _ in zip(plan.arrivals(20, 5), range(4000), strict=False)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(1 / 20, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)


async def test_open_loop_is_not_slowed_by_slow_answers() -> None:
    async def slow(request: httpx.Request) -> httpx.Response:
        return streamed(events("cloud"), pause=0.4)

    seen = await run(load(slow), Shape(users=None, rate=60, seconds=0.5, requests=None))
    due = itertools.takewhile(lambda after: after < 0.5, plan.arrivals(60, 3))
    assert len(seen) == len(list(due)) > 15
    assert all(each.error is None for each in seen)


async def test_open_loop_counts_a_wait_from_when_the_request_was_due() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        time.sleep(0.05)  # noqa: ASYNC251 - a generator that is short of a core
        return streamed(events("cloud"))

    seen = await run(load(answer), Shape(users=None, rate=100, seconds=0.3, requests=None))
    summary = summarize(seen, started=0, window=1)
    assert summary.sending_lag_seconds.p99 is not None
    assert summary.sending_lag_seconds.p99 > 0.3
    assert summary.time_to_first_token_seconds.p99 is not None
    assert summary.time_to_first_token_seconds.p99 > summary.sending_lag_seconds.p99
    told = report(seen, ["edge-0"], began=0, window=1, started="", load={"rate": 100})
    assert any("generator itself was late" in each for each in remarks(told))


async def test_closed_loop_has_as_many_under_way_as_users_and_spreads_them_over_edges() -> None:
    under_way, most = 0, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return streamed(events("cloud"))

    shape = Shape(users=6, rate=None, seconds=None, requests=40)
    seen = await run(load(answer, edges=3), shape)
    assert most == 6
    assert len(seen) == 40
    assert min(Counter(each.edge for each in seen).values()) >= 10


async def test_a_session_continues_its_text_on_its_edge() -> None:
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["inputs"])
        return streamed(events("exit:3", "cloud"))

    seen = await run(load(answer, edges=2, turns=3), Shape(1, None, None, 3))
    assert asked[1].startswith(f"{asked[0]} and on\n\n")
    assert asked[2].startswith(f"{asked[1]} and on\n\n")
    assert {each.edge for each in seen} == {"edge-0"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([{"error": "lost", "error_type": "cloud_lost"}], "stream_cloud_lost"),
        ([{"token": {"source": "cloud"}}], "stream_ended_early"),
        ([{"token": "?"}], "not_a_generation"),
        ([{"token": {"source": "cloud"}, "details": {}}], "not_a_generation"),
    ],
)
async def test_a_stream_that_fails_is_counted_by_its_reason(
    said: list[dict[str, object]], reason: str
) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return streamed(said)

    (seen,) = await run(load(answer), Shape(1, None, None, 1))
    assert seen.error == reason


async def test_refusals_and_lost_connections_are_counted_apart() -> None:
    failures: list[httpx.HTTPError | int] = [
        503,
        429,
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("silence"),
        httpx.ReadError("reset"),
    ]

    async def answer(request: httpx.Request) -> httpx.Response:
        failure = failures.pop(0)
        if isinstance(failure, int):
            return httpx.Response(failure)
        raise failure

    seen = await run(load(answer), Shape(1, None, None, 5))
    assert [each.error for each in seen] == ["http_503", "http_429", "connect", "timeout", "broken"]
    told = report(seen, ["edge-0"], began=0, window=1, started="", load={})
    assert told.error_share == 1
    assert told.total.errors == dict.fromkeys(
        ("http_503", "http_429", "connect", "timeout", "broken"), 1
    )


async def test_stopping_ends_it_at_once_and_what_it_cut_off_did_not_fail() -> None:
    stopped, fourths = asyncio.Event(), []

    def taken(number: int) -> None:
        if number == 4:
            fourths.append(time.monotonic())
        if len(fourths) == 3:
            stopped.set()

    async def endless(request: httpx.Request) -> httpx.Response:
        return streamed(events(*["cloud"] * 1000), pause=0.02, taken=taken)

    asked = load(endless)
    seen = await run(asked, Shape(3, None, 60, None), stopped)
    took = time.monotonic() - asked.started
    assert took < 15
    assert [each.error for each in seen] == ["stopped"] * 3
    told = report(seen, ["edge-0"], began=asked.started, window=asked.window, started="", load={})
    assert (told.error_share, told.total.failed, told.total.stopped) == (0, 0, 3)
    assert any("3 requests were cut off" in each for each in remarks(told))
    assert fourths[-1] - asked.started <= asked.window <= took
    assert all(each.sources["cloud"] > 3 for each in seen)


async def test_stopping_during_the_grace_does_not_lengthen_the_load() -> None:
    def taken(_: int) -> None:
        if time.monotonic() > asked.started + 0.3:
            stopped.set()

    async def endless(request: httpx.Request) -> httpx.Response:
        return streamed(events(*["cloud"] * 1000), pause=0.02, taken=taken)

    stopped = asyncio.Event()
    asked = load(endless)
    await run(asked, Shape(1, None, 0.2, None), stopped)
    assert asked.window == pytest.approx(0.2)


async def test_what_outlasts_the_grace_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(request: httpx.Request) -> httpx.Response:
        return streamed(events(*["cloud"] * 1000), pause=0.02)

    monkeypatch.setattr("cli.load.run.GRACE_SECONDS", 0.1)
    # Long enough that both are sent, however late.
    seen = await run(load(endless), Shape(2, None, 2.0, None))
    told = report(seen, ["edge-0"], began=0, window=2.0, started="", load={})
    assert told.total.errors == {"unfinished": 2}
    assert told.error_share == 1


async def test_progress_counts_what_ended_once_and_what_is_under_way_each_time() -> None:
    shape = Shape(users=1, rate=None, seconds=None, requests=9)
    asked = Load([], [], plan.Plan(["a"], MODES, 1, 1, 0), {})
    progress = Progress(asked, shape)
    asked.seen += [Seen("e", "cloud", 0.0, token_times=[1.0, 2.0]), Seen("e", "cloud", 0.0)]
    assert progress.line().endswith("9 requests: 2 requests, 2 under way, 0 failed, 2 tokens")
    asked.seen[0].ended = 3.0
    asked.seen[1].ended, asked.seen[1].error = 3.0, "http_503"
    asked.seen.append(Seen("e", "cloud", 4.0, token_times=[5.0]))
    for _ in range(2):
        assert progress.line().endswith("3 requests, 1 under way, 1 failed, 3 tokens")


def test_a_picture_that_cannot_be_written_is_said_before_the_load(tmp_path: Path) -> None:
    check(tmp_path / "load.svg")
    with pytest.raises(CommandError, match="no picture has such a name"):
        check(tmp_path / "load.exe")
    with pytest.raises(CommandError, match="there is no folder"):
        check(tmp_path / "none" / "load.png")


def test_matplotlib_is_imported_for_a_picture_only() -> None:
    code = "import sys, cli.load.command; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", code), check=False).returncode == 0


def test_it_runs_where_neither_torch_nor_a_service_is_installed() -> None:
    blocked = "torch", "transformers", "services", "training", "shared", "fastapi"
    code = (
        "import sys, runpy\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "sys.argv = ['load', '--edge', 'http://127.0.0.1:9', '--users', '1', '--requests', '1']\n"
        "runpy.run_module('cli.load', run_name='__main__')\n"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1 × connect" in done.stdout
    assert done.stderr.strip().endswith("100.0% of the requests failed")


async def test_a_refusing_edge_is_not_hammered() -> None:
    async def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503)

    asked = load(refuse)
    seen = await run(asked, Shape(users=2, rate=None, seconds=None, requests=8))
    assert len(seen) == 8
    assert time.monotonic() - asked.started >= 0.75
