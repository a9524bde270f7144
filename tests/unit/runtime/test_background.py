"""Tasks nobody awaits: kept alive, drained, and never silent about a bug."""

import asyncio
import gc
import logging

import pytest

from shared.errors import CloudLost
from shared.runtime.background import Background


async def test_a_spawned_task_lives_without_anybody_holding_it() -> None:
    background, done = Background(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0)
        done.set()

    background.spawn(work())
    await asyncio.wait_for(done.wait(), 60)


async def test_draining_waits_for_what_ends_in_time_and_cancels_the_rest() -> None:
    background, ended = Background(), []

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended.append(seconds)

    quick, slow = background.spawn(work(0.01)), background.spawn(work(60))
    await background.drain(3)
    await asyncio.wait({slow})
    assert ended == [0.01]
    assert quick.done()
    assert slow.cancelled()
    await background.drain(0)


@pytest.mark.parametrize(
    ("error", "logged"),
    [(RuntimeError("a bug"), True), (CloudLost("no answer", reason="refused"), False)],
)
async def test_a_bug_is_logged_and_an_error_of_ours_is_left_to_who_awaits_it(
    error: Exception, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    background = Background()

    async def work() -> None:
        raise error

    with caplog.at_level(logging.ERROR):
        task = background.spawn(work())
        await asyncio.wait({task})
        await asyncio.sleep(0)
    assert [record.exc_info is not None for record in caplog.records] == [True] * logged
    with pytest.raises(type(error)):
        await task
