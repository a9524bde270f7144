"""What tests of connections share."""

import asyncio
from collections.abc import Awaitable

import pytest
import uvloop

from tests.unit.edge.talking import OnLoop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def on_loop(request: pytest.FixtureRequest) -> OnLoop:
    """Runs a coroutine on each of the loops a service may run on; it may leave no tasks."""

    def run(work: Awaitable[None]) -> None:
        async def main() -> None:
            await work
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main())

    return run
