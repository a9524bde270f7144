"""Notices that whoever asked has hung up: a server tells nobody who does not look."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from shared.runtime.deadline import Deadline

# What takes no longer than this is not looked after: a task for every request would cost more than
# the little work it could save.
UNWATCHED_SECONDS = 0.01


async def gone(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


@contextmanager
def watched(request: Request, deadline: Deadline) -> Iterator[None]:
    """Give `deadline` up when the client hangs up while the block runs; its body must have been
    read.
    """
    loop = asyncio.get_running_loop()
    watching: list[asyncio.Task[None]] = []

    async def watch() -> None:
        await gone(request.receive)
        deadline.give_up()

    begin = loop.call_later(UNWATCHED_SECONDS, lambda: watching.append(loop.create_task(watch())))
    try:
        yield
    finally:
        begin.cancel()
        for task in watching:
            task.cancel()


@asynccontextmanager
async def cancelled_when_gone(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when the client hangs up.

    Raises:
        ClientDisconnect: it did.
    """
    current, left = asyncio.current_task(), False
    assert current is not None

    def leave(_: "asyncio.Task[None]") -> None:
        nonlocal left
        left = True
        current.cancel()

    watching = asyncio.create_task(gone(receive))
    watching.add_done_callback(leave)
    try:
        yield
    except asyncio.CancelledError:
        if left and current.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watching.remove_done_callback(leave)
        watching.cancel()
