"""The thread that owns an engine: who goes into a step, what it costs them, and how works end."""

import asyncio
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Overloaded
from shared.runtime.model_thread import ModelThread
from shared.runtime.schedule import SHORT, Schedule
from shared.runtime.work import Claim, Completed, Stepped
from tests.unit.runtime.gates import Gate, Job, Paced, Runner, behind, runner


async def test_a_long_prompt_runs_in_chunks_beside_everybody_elses_single_tokens() -> None:
    gate = Gate(open=False)
    with runner(gate) as thread:
        jobs = [Job("prompt", 20), Job("a", 1), Job("b", 1)]
        await asyncio.gather(*await behind(gate, thread, jobs))
    assert gate.steps[1:] == [
        [("prompt", 6), ("a", 1), ("b", 1)],
        [("prompt", 8)],
        [("prompt", 6)],
    ]


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize(("stretch", "rows"), [(1.8, 16), (2.1, 22), (1.001, 0), (1e9, 197)])
async def test_beside_others_tokens_a_prompt_stretches_a_step_only_so_far(
    monkeypatch: pytest.MonkeyPatch, stretch: float, rows: int, *, goes_on: bool
) -> None:
    """So it does while they are away for a moment, and not when their texts have ended."""
    gate = Paced()
    monkeypatch.setattr("time.perf_counter", lambda: gate.now)
    with ModelThread[Job, str](gate, "test-engine", Schedule(201, stretch), 64) as thread:
        for total in (1, 200, 3):
            await thread.run(Job("before", total))
            gate.rest()
        gate.open = False
        jobs = [Job("prompt", 400), Job("a", 1, claim=Claim(live=goes_on)), Job("b", 2)]
        await asyncio.gather(*await behind(gate, thread, jobs))
    beside = dict(gate.steps[1])
    assert (beside["a"], beside["b"]) == (1, 2)
    assert beside["prompt"] == 1 + rows
    [(_, next_rows)] = gate.steps[2]
    if not goes_on or stretch == 1e9:
        assert next_rows == min(201, 400 - 1 - rows)  # alone it has the whole step
    else:
        assert next_rows <= 1 + rows


async def test_steps_that_took_unlikely_times_leave_no_row_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through these a line says that a few rows take less than nothing."""
    gate = Paced()
    monkeypatch.setattr("time.perf_counter", lambda: gate.now)
    with ModelThread[Job, str](gate, "test-engine", Schedule(201, 1.8), 64) as thread:
        for total, late in ((1, -0.085), (200, 0.0), (1, -0.085), (150, -0.8)):
            gate.late = late
            await thread.run(Job("before", total))
            gate.rest()
        assert thread.schedule.line.at(4) < 0
        gate.open = False
        jobs = [Job("prompt", 400), Job("a", 1), Job("b", 2)]
        await asyncio.gather(*await behind(gate, thread, jobs))
    assert dict(gate.steps[1]) == {"prompt": 1, "a": 1, "b": 2}


async def test_works_that_outnumber_the_budget_are_served_oldest_first() -> None:
    gate = Gate(open=False)
    with runner(gate, max_rows=3) as thread:
        await asyncio.gather(*await behind(gate, thread, [Job(f"{n}", 1) for n in range(8)]))
    assert [[name for name, _ in step] for step in gate.steps[1:]] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6", "7"],
    ]


@given(rows=st.lists(st.integers(1, 40), min_size=1, max_size=12), budget=st.integers(1, 16))
def test_every_step_keeps_the_budget_wastes_none_of_it_and_starves_nobody(
    rows: list[int], budget: int
) -> None:
    gate = Gate(open=False)

    async def serve() -> None:
        with runner(gate, max_rows=budget) as thread:
            jobs = [Job(str(n), total) for n, total in enumerate(rows)]
            await asyncio.gather(*await behind(gate, thread, jobs))

    asyncio.run(serve())
    left = dict(enumerate(rows))
    waited = dict.fromkeys(left, 0)
    for step_number, step in enumerate(gate.steps[1:], start=1):
        given_out = {int(name): share for name, share in step}
        assert sum(given_out.values()) == min(budget, sum(left.values()))
        # Tokens, whoever waits longest, then prompts, by age; none where one before wants more.
        tokens = sorted((n for n in left if left[n] <= SHORT), key=lambda n: (waited[n], n))
        prompts = [n for n in left if n not in tokens]
        for order in (tokens, prompts):
            for before, after in pairwise(order):
                whole = given_out.get(before) == left[before]
                assert whole or given_out.get(after, 0) == 0
        if prompts:
            assert given_out.get(prompts[0]) or waited[prompts[0]] >= step_number - len(rows)
        waited |= dict.fromkeys(given_out, step_number)
        left = {n: r - given_out.get(n, 0) for n, r in left.items() if r > given_out.get(n, 0)}
    assert not left


async def test_a_cancelled_work_is_dropped_before_the_next_step() -> None:
    gate = Gate(open=False)
    with runner(gate) as thread:
        first, doomed, kept = await _three(gate, thread)
        doomed.cancel()
        await asyncio.wait({doomed})
        gate.open = True
        gate.let()
        assert (await kept).value == "kept"
        await first
        assert thread.waiting == 0
    assert [name for step in gate.steps for name, _ in step] == ["first", "kept"]


async def _three(
    gate: Gate, thread: Runner
) -> tuple[
    "asyncio.Task[Completed[str]]", "asyncio.Task[Completed[str]]", "asyncio.Task[Completed[str]]"
]:
    first = asyncio.create_task(thread.run(Job("first", 1)))
    await gate.started()
    doomed = asyncio.create_task(thread.run(Job("doomed", 30)))
    kept = asyncio.create_task(thread.run(Job("kept", 1)))
    await asyncio.sleep(0)
    return first, doomed, kept


async def test_a_work_cancelled_between_its_chunks_gets_no_further_one() -> None:
    gate = Gate(open=False)
    with runner(gate, max_rows=4) as thread:
        task = asyncio.create_task(thread.run(Job("long", 40)))
        await gate.started()
        task.cancel()
        await asyncio.wait({task})
        gate.open = True
        gate.let()
        assert (await thread.run(Job("next", 1))).value == "next"
    assert gate.steps == [[("long", 4)], [("next", 1)]]


async def test_an_exception_of_the_engine_fails_that_step_and_no_other() -> None:
    gate = Gate(open=False, breaks=None)
    with runner(gate) as thread:
        tasks = await behind(gate, thread, [])
        await asyncio.gather(*tasks)
        gate.breaks = RuntimeError("device lost")
        results = await asyncio.gather(
            thread.run(Job("a", 1)), thread.run(Job("b", 1)), return_exceptions=True
        )
        assert any(isinstance(result, RuntimeError) for result in results)
        assert (await thread.run(Job("after", 1))).value == "after"
        assert thread.waiting == 0


async def test_a_failed_work_fails_alone() -> None:
    gate = Gate(open=False)
    with runner(gate) as thread:
        jobs = [Job("good", 1), Job("bad", 1, ValueError("bad numbers")), Job("fine", 1)]
        first, good, bad, fine = await behind(gate, thread, jobs)
        with pytest.raises(ValueError, match="bad numbers"):
            await bad
        for task in (first, good, fine):
            assert isinstance(await task, Completed)
    assert len(gate.steps) == 2, "they were not in one step"


async def test_errands_run_between_steps_on_the_engines_thread() -> None:
    gate = Gate(open=False)
    ran: list[tuple[int, int]] = []

    def errand() -> None:
        ran.append((len(gate.steps), threading.get_ident()))

    with runner(gate) as thread:
        first = asyncio.create_task(thread.run(Job("first", 1)))
        await gate.started()
        thread.post(errand)
        await asyncio.sleep(0.01)
        assert ran == [], "it ran while a step did"
        gate.open = True
        gate.let()
        await first
        await thread.run(Job("next", 1))
    assert ran == [(1, next(iter(gate.threads)))]
    assert threading.get_ident() not in gate.threads


async def test_an_idle_thread_runs_errands_too() -> None:
    ran = threading.Event()
    with runner(Gate()) as thread:
        thread.post(ran.set)
        assert await asyncio.to_thread(ran.wait, 10)


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    gate = Gate(open=False)
    with runner(gate, max_waiting=2) as thread:
        tasks = [asyncio.create_task(thread.run(Job(name, 1))) for name in "ab"]
        await gate.started()
        with pytest.raises(Overloaded) as refused:
            await thread.run(Job("c", 1))
        assert 0.5 <= (refused.value.retry_after or 0) <= 1.5
        gate.open = True
        gate.let()
        await asyncio.gather(*tasks)
        assert (await thread.run(Job("c", 1))).value == "c"


async def test_closing_lets_the_step_end_and_refuses_the_rest() -> None:
    gate = Gate(open=False)
    with runner(gate, max_rows=1) as thread:
        running = asyncio.create_task(thread.run(Job("running", 1)))
        await gate.started()
        waiting = asyncio.create_task(thread.run(Job("waiting", 1)))
        given_back: list[str] = []
        thread.post(lambda: given_back.append("cache"))
        await asyncio.sleep(0)
        thread._closed = True  # as __exit__ does, without waiting for the gate
        gate.let()
    assert (await running).value == "running"
    with pytest.raises(Overloaded, match="shutting down"):
        await waiting
    with pytest.raises(Overloaded, match="shutting down"):
        await thread.run(Job("late", 1))
    assert given_back == ["cache"]
    assert gate.steps == [[("running", 1)]]


async def test_shares_of_a_steps_time_add_up_to_it() -> None:
    steps: list[Stepped] = []
    gate = Gate(open=False)
    with ModelThread(gate, "test-engine", Schedule(8), 64, steps.append) as thread:
        tasks = await behind(gate, thread, [Job("a", 1), Job("b", 3), Job("long", 30)])
        results = [result for task in tasks if isinstance(result := await task, Completed)]
    assert sum(r.compute_seconds for r in results) == pytest.approx(
        sum(step.seconds for step in steps)
    )
    by_name = {r.value: r for r in results}
    assert by_name["b"].compute_seconds > by_name["a"].compute_seconds
    assert all(r.queue_seconds >= 0 for r in results)


async def test_two_hundred_callers_each_get_their_own_result() -> None:
    gate = Gate()
    with runner(gate, max_rows=16, max_waiting=200) as thread:
        results = await asyncio.gather(*(thread.run(Job(str(n), 1 + n % 7)) for n in range(200)))
        assert [result.value for result in results] == [str(n) for n in range(200)]
        assert thread.waiting == 0
    assert max(sum(rows for _, rows in step) for step in gate.steps) <= 16


async def test_emergencies_that_were_cancelled_or_failed_are_counted_no_more() -> None:
    gate = Gate(open=False)
    urgent = Claim(priority="emergency", live=False)
    with runner(gate) as thread:
        jobs = [Job("gone", 30, claim=urgent), Job("bad", 1, ValueError("bad"), claim=urgent)]
        _, gone, bad = await behind(gate, thread, [*jobs])
        assert thread.waiting_as("emergency") == 2
        gone.cancel()
        with pytest.raises(ValueError, match="bad"):
            await bad
        assert (await thread.run(Job("next", 20))).value == "next"
        assert thread.waiting_as("emergency") == thread.waiting_as("normal") == 0
    assert gate.steps[-3:] == [[("next", 8)], [("next", 8)], [("next", 4)]]
