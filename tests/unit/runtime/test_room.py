"""A queue bounded by rows, what it tells those it turns away, and works whose session is closed."""

import asyncio

import pytest

from shared.errors import DeadlinePassed, Overloaded
from shared.runtime.deadline import NEVER, Deadline
from shared.runtime.model_thread import ModelThread
from shared.runtime.retry import Throughput, spread_out
from shared.runtime.schedule import Schedule
from shared.runtime.work import Claim
from tests.unit.runtime.gates import Gate, Job, runner


async def test_a_queue_takes_so_many_rows_and_one_work_of_any_number() -> None:
    gate = Gate(open=False)
    with ModelThread(gate, "test", Schedule(8), 64, max_waiting_rows=20) as thread:
        first = asyncio.create_task(thread.run(Job("first", 50)))
        await gate.started()
        with pytest.raises(Overloaded, match="50 rows are waiting, and 1 more"):
            thread.submit(Job("second", 1))
        urgent = thread.submit(Job("urgent", 20, claim=Claim(priority="emergency")))
        with pytest.raises(Overloaded, match="20 rows are waiting"):
            thread.submit(Job("more", 1, claim=Claim(priority="emergency")))
        gate.open = True
        gate.let()
        await asyncio.gather(first, urgent)
        few = [thread.submit(Job(name, 10)) for name in "ab"]
        await asyncio.gather(*few)


def test_whoever_is_turned_away_is_told_what_is_measured_within_bounds_and_not_all_the_same() -> (
    None
):
    pace = Throughput()
    assert pace.seconds_for(5) == 0
    for _ in range(100):
        pace.took(10, 2.0)
    assert pace.seconds_for(5) == pytest.approx(1.0)
    for _ in range(200):
        pace.took(1, 2.0)
    assert pace.seconds_for(5) == pytest.approx(10, rel=0.01)
    assert [spread_out(s, lambda: 0.5) for s in (0, 0.2, 7, 1e9)] == [1, 1, 7, 20]
    told = {spread_out(10) for _ in range(100)}
    assert len(told) > 50
    assert all(5 <= seconds <= 15 for seconds in told)


async def test_a_full_queue_says_how_long_what_waits_takes() -> None:
    gate = Gate(open=False)
    with runner(gate, max_waiting=1) as thread:
        thread._throughput.took(1, 4.0)
        waiting = thread.submit(Job("waiting", 2))
        await gate.started()
        with pytest.raises(Overloaded) as refused:
            thread.submit(Job("more", 1))
        gate.open = True
        gate.let()
        await waiting
    assert 4 <= (refused.value.retry_after or 0) <= 12


async def test_a_work_of_a_closed_session_goes_no_further_than_its_step() -> None:
    gate, claim = Gate(open=False), Claim()
    with runner(gate) as thread:
        begun = asyncio.create_task(thread.run(Job("begun", 30, claim=claim)))
        await gate.started()
        queued = asyncio.create_task(thread.run(Job("queued", 1, claim=claim)))
        await asyncio.sleep(0)
        claim.wanted = False
        gate.open = True
        gate.let()
        for task in (begun, queued):
            with pytest.raises(DeadlinePassed, match="closed"):
                await task
    assert gate.steps == [[("begun", 8)]]


async def test_a_work_given_up_in_the_queue_is_never_begun_and_one_that_has_begun_goes_on() -> None:
    gate, asked = Gate(open=False), Deadline.after(60)
    with runner(gate) as thread:
        running = asyncio.create_task(thread.run(Job("running", 20), asked))
        await gate.started()
        queued = asyncio.create_task(thread.run(Job("queued", 1), asked))
        await asyncio.sleep(0)
        asked.give_up()
        gate.open = True
        gate.let()
        with pytest.raises(DeadlinePassed):
            await queued
        assert (await running).value == "running"
    assert all(name == "running" for step in gate.steps for name, _ in step)


def test_what_has_no_end_is_not_given_up() -> None:
    with pytest.raises(AssertionError):
        NEVER.give_up()
