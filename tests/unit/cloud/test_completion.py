"""Sessions in the cloud under duplicates, disorder, shortage, failure and callers that go away."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.errors import ComputeError, Overloaded
from shared.protocol.messages import Close, Fault, Report, Want
from shared.protocol.version import PATH_CLOSE, PATH_MANIFEST, PATH_STREAM
from shared.protocol.wire import decode, encode
from tests.support.toy_model import VOCABULARY, full_choice
from tests.unit.cloud.served import LIMIT, Served, served
from tests.unit.cloud.sessions import CLOUD_OPENING, OPENING, SESSION, TEXT, ask, block, digest_of


def alone(count: int, prompt: int = 3) -> list[int]:
    """What the full model says after the prompt, token by token."""
    text = list(TEXT[:prompt])
    for _ in range(count):
        text.append(full_choice(text))
    return text[prompt:]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something the engine's thread does, which sets no event of this loop."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


async def test_an_asked_for_token_is_the_full_models_and_the_report_says_on_which_prefix() -> None:
    async with served() as cloud:
        report = await cloud.report(ask(5, acknowledged=5))
        token = full_choice(TEXT[:5])
        assert (report.through, report.tokens) == (6, (token,))
        assert report.digest == digest_of((*TEXT[:5], token))
        assert (report.passes, report.judged) == (1, 2)
        disagreed = {p for p in (3, 4) if full_choice(TEXT[:p]) != TEXT[p]}
        assert report.disagreed == len(disagreed)


async def test_uploads_cost_no_pass_and_soon_leaves_the_last_row_for_the_asking() -> None:
    async with served() as cloud:
        assert (await cloud.report(block(5))).passes == 0
        assert cloud.model.steps == 0
        await cloud.report(block(8, 5, want=Want.SOON))
        context = cloud.store._contexts[SESSION]
        await until(lambda: context.passes == 1)
        assert context.cache is not None
        assert context.cache.length(1) == 7
        assert (await cloud.report(ask(8, 8))).tokens[-1] == full_choice(TEXT[:8])


async def test_duplicate_requests_at_once_decide_once() -> None:
    async with served() as cloud:
        reports = await asyncio.gather(*(cloud.report(ask(5)) for _ in range(8)))
        assert {report.through for report in reports} == {6}
        assert {report.tokens for report in reports} == {(full_choice(TEXT[:5]),)}
        assert {report.passes for report in reports} == {1}
        assert cloud.metrics.tokens.labels(source="cloud", mode="split")._value.get() == 1


async def test_blocks_that_overtake_each_other_are_put_in_order() -> None:
    async with served(reorder_seconds=60) as cloud:
        late = [asyncio.create_task(cloud.report(ask(9, 7)))]
        late.append(asyncio.create_task(cloud.report(block(7, 4))))
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in late)
        await cloud.report(block(4))
        asked, uploaded = await asyncio.gather(*late)
        assert asked.need_from is uploaded.need_from is None
        assert asked.tokens[-1] == full_choice(TEXT[:9])


async def test_a_block_whose_predecessor_never_comes_asks_for_it() -> None:
    async with served(reorder_seconds=0.01) as cloud:
        await cloud.report(block(4))
        report = await cloud.report(ask(9, 7))
        assert (report.need_from, report.through) == (4, 4)


async def test_a_lost_session_is_asked_for_from_its_start_and_nothing_is_kept_for_it() -> None:
    async with served() as cloud:
        for lost in (ask(9, 7), replace(ask(9, 7), opening=None), replace(ask(9), opening=None)):
            report = await cloud.report(lost)
            assert (report.need_from, report.through, report.tokens) == (0, 0, ())
            assert len(cloud.store) == 0
        assert (await cloud.report(ask(9))).tokens[-1] == full_choice(TEXT[:9])


async def test_a_diverged_block_is_asked_for_from_what_both_sides_confirmed() -> None:
    async with served() as cloud:
        await cloud.report(ask(4))
        report = await cloud.report(ask(6, 5, text=(*TEXT[:4], 6, 6), sequence=9))
        assert report.need_from == 4


async def test_closing_frees_the_cache_and_closing_again_is_no_error() -> None:
    async with served() as cloud:
        await cloud.report(ask(5))
        for _ in range(2):
            answer = await cloud.send(encode(Close(session=SESSION, revision=0)), PATH_CLOSE)
            assert answer.status_code == 204
        assert (len(cloud.store), cloud.store.nbytes) == (0, 0)
        await cloud.settled()
        assert not cloud.model.caches[0].rows


async def test_a_stream_runs_ahead_with_a_report_a_token() -> None:
    async with served() as cloud:
        reports = await cloud.stream(ask(3, opening=CLOUD_OPENING, count=6, acknowledged=3))
        assert all(isinstance(report, Report) for report in reports)
        assert [r.tokens for r in reports if isinstance(r, Report)] == [(t,) for t in alone(6)]
        assert cloud.outcomes() == {("stream", "ok"): 1}


async def test_a_stream_ends_with_the_text() -> None:
    eos = alone(3)[2]
    first = alone(3).index(eos)
    opening = replace(CLOUD_OPENING, sampling=replace(CLOUD_OPENING.sampling, eos_ids=(eos,)))
    async with served() as cloud:
        assert len(await cloud.stream(ask(3, opening=opening, count=20))) == first + 1
    async with served() as cloud:
        assert len(await cloud.stream(ask(3, opening=CLOUD_OPENING, count=500))) == 21


async def test_a_session_with_states_has_no_stream() -> None:
    async with served() as cloud:
        status, fault = await cloud.fault(ask(3, count=4), PATH_STREAM)
        assert (status, fault.code, fault.field) == (422, "invalid", "count")
        assert (len(cloud.store), cloud.model.steps) == (0, 0)


async def test_a_stream_that_fails_midway_ends_with_a_fault_and_can_be_taken_up() -> None:
    async with served() as cloud:
        first = cloud.completion.stream([ask(3, opening=CLOUD_OPENING, count=2)])
        assert (await anext(first)).through == 4
        cloud.model.breaks = ComputeError("the model produced numbers that are not finite")
        with pytest.raises(ComputeError):
            await anext(first)
        rest = await cloud.stream(ask(3, opening=CLOUD_OPENING, count=5, sequence=9))
        last = rest[-1]
        assert isinstance(last, Report)
        assert last.tokens[-1] == alone(5)[-1]


async def test_a_stream_whose_session_is_closed_ends() -> None:
    async with served() as cloud:
        reports = cloud.completion.stream([ask(3, opening=CLOUD_OPENING, count=9)])
        assert (await anext(reports)).through == 4
        await cloud.completion.close(SESSION, 0)
        assert [report async for report in reports] == []


async def test_a_stream_given_up_lets_its_step_end_before_the_cache_goes() -> None:
    async with served() as cloud:
        reports = cloud.completion.stream([ask(3, opening=CLOUD_OPENING, count=9)])
        await anext(reports)
        cloud.model.gate.clear()
        waiting = asyncio.ensure_future(anext(reports))
        steps = cloud.model.steps
        await until(lambda: cloud.model.steps > steps)
        waiting.cancel()
        await asyncio.wait({waiting})
        await cloud.completion.close(SESSION, 0)  # as the edge does when its user has gone
        await asyncio.sleep(0.01)
        assert cloud.model.caches[0].rows, "a cache was freed under a running step"
        cloud.model.gate.set()
        await cloud.settled()
        assert not cloud.model.caches[0].rows


async def test_a_caller_that_goes_away_leaves_the_session_whole() -> None:
    async with served() as cloud:
        cloud.model.gate.clear()
        asking = asyncio.ensure_future(cloud.report(ask(5)))
        await until(lambda: cloud.model.steps > 0)
        asking.cancel()
        await asyncio.wait({asking})
        cloud.model.gate.set()
        await cloud.completion.background.drain(60)
        assert cloud.store._contexts[SESSION].through == 6, "the pass ended with its caller"
        again = await cloud.report(ask(5))
        assert (again.tokens[-1], again.passes) == (full_choice(TEXT[:5]), 1)


async def _occupied(cloud: Served) -> "asyncio.Task[Report]":
    """A session whose pass is held in the engine."""
    cloud.model.gate.clear()
    task = asyncio.ensure_future(cloud.report(ask(5, session="busy")))
    await until(lambda: cloud.model.steps > 0)
    return task


async def test_a_full_queue_is_503_with_retry_after_and_the_session_goes_on_later() -> None:
    async with served(max_waiting=1) as cloud:
        busy = await _occupied(cloud)
        answer = await cloud.send(ask(5))
        fault = decode(answer.content, limit=LIMIT)
        assert isinstance(fault, Fault)
        assert (answer.status_code, fault.code, fault.retryable) == (503, "overloaded", True)
        assert answer.headers["retry-after"] in ("1", "2")
        assert cloud.outcomes()[("complete", "overloaded")] == 1
        cloud.model.gate.set()
        await busy
        assert (await cloud.report(ask(5, sequence=9))).tokens[-1] == full_choice(TEXT[:5])


async def test_a_store_full_of_sessions_in_use_is_503() -> None:
    async with served(max_contexts=1) as cloud:
        busy = await _occupied(cloud)
        status, fault = await cloud.fault(ask(5))
        assert (status, fault.code, fault.retryable) == (503, "overloaded", True)
        cloud.model.gate.set()
        await busy
        await cloud.report(ask(5))


async def test_a_session_beyond_the_byte_budget_is_503_and_not_kept() -> None:
    async with served(budget_bytes=100) as cloud:
        status, fault = await cloud.fault(ask(9))
        assert (status, fault.code) == (503, "out_of_memory")
        assert (len(cloud.store), cloud.store.nbytes) == (0, 0)


async def test_evicted_kv_is_rebuilt_from_the_log() -> None:
    async with served() as cloud:
        await cloud.report(ask(5))
        context = cloud.store._contexts[SESSION]
        cloud.store._drop_cache(context)
        assert context.cache is None
        assert (await cloud.report(ask(8, 5))).tokens[-1] == full_choice(TEXT[:8])


@pytest.mark.parametrize(
    "failure", [ComputeError("not finite"), Overloaded("no room"), RuntimeError("device lost")]
)
async def test_after_a_failed_pass_the_same_request_succeeds(failure: Exception) -> None:
    async with served() as cloud:
        await cloud.report(block(5))
        cloud.model.breaks = failure
        with pytest.raises(type(failure)):
            await cloud.completion.accept([ask(7, 5)])
        report = await cloud.report(ask(7, 5))
        assert report.tokens[-1] == full_choice(TEXT[:7])


async def test_a_choice_that_failed_after_its_rows_had_run_is_made_again() -> None:
    async with served() as cloud:
        cloud.model.poisoned = True
        status, fault = await cloud.fault(ask(4))
        assert (status, fault.code) == (500, "compute")
        assert (await cloud.report(ask(4))).tokens[-1] == full_choice(TEXT[:4])


async def test_sessions_at_once_do_not_meet() -> None:
    async with served(max_contexts=20) as cloud:
        texts = [tuple((n + k * 5) % VOCABULARY for k in range(8)) for n in range(12)]
        reports = await asyncio.gather(
            *(cloud.report(ask(8, text=text, session=f"s{n}")) for n, text in enumerate(texts))
        )
        assert [r.tokens[-1] for r in reports] == [full_choice(text) for text in texts]
        for n in range(12):
            await cloud.completion.close(f"s{n}", 0)


async def test_the_manifest_is_shown() -> None:
    async with served() as cloud:
        answer = await cloud.http.get(PATH_MANIFEST)
        assert answer.json() == {"depth": OPENING.depth, "draining": False}
