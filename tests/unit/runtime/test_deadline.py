"""Works whose callers stop waiting at a known time."""

import asyncio

import pytest

from shared.errors import DeadlinePassed
from shared.runtime.deadline import NEVER, Deadline
from tests.support.clock import deadlines_clock
from tests.unit.runtime.gates import Gate, Job, runner


def test_a_deadline_counts_down_to_0_and_none_never_comes() -> None:
    assert 500 < Deadline.after(600).left <= 600
    assert Deadline.after(-1).left == 0
    NEVER.require()
    with pytest.raises(DeadlinePassed):
        Deadline.after(0).require()


async def test_a_work_whose_deadline_passes_in_the_queue_is_never_begun() -> None:
    gate = Gate(open=False)
    with runner(gate) as thread:
        running = asyncio.create_task(thread.run(Job("running", 1)))
        await gate.started()
        late = asyncio.create_task(thread.run(Job("late", 1), Deadline.after(0.01)))
        early = asyncio.create_task(thread.run(Job("early", 1), Deadline.after(60)))
        await asyncio.sleep(0.02)
        gate.open = True
        gate.let()
        assert (await early).value == "early"
        with pytest.raises(DeadlinePassed, match="was not begun"):
            await late
        await running
        assert thread.waiting == 0
    assert gate.steps[-1] == [("early", 1)]


async def test_a_work_that_has_begun_runs_to_its_end_whatever_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, gate = deadlines_clock(monkeypatch), Gate(open=False)
    with runner(gate) as thread:
        task = asyncio.create_task(thread.run(Job("long", 20), Deadline.after(60)))
        await gate.started()
        clock.ahead = 61
        gate.open = True
        gate.let()
        assert (await task).value == "long"
    assert len(gate.steps) == 3
