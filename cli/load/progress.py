"""How far a load is, on standard error while it runs: in place on a terminal, else a line now and
then. It knows what was sent; it does not know when the load is over.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from cli.load.requests import STOPPED, Seen
from cli.load.run import Load, Shape
from cli.terminal import console

LINE_SECONDS = 10.0
STATUS_SECONDS = 0.5


@dataclass(slots=True)
class Progress:
    """Counts of a load under way.

    A request is looked at only until it ends: the line is made in the generator's own thread, and
    would make it late were it to go through all requests of a long load.
    """

    load: Load
    shape: Shape
    _known: int = 0
    _under_way: list[Seen] = field(default_factory=list)
    _failed: int = 0
    _tokens: int = 0

    def line(self) -> str:
        """How far it is, in one line."""
        seen = self.load.seen
        self._under_way += seen[self._known :]
        self._known = len(seen)
        for each in self._under_way:
            if each.ended is not None:
                self._tokens += len(each.token_times)
                self._failed += each.error not in (None, STOPPED)
        self._under_way = [each for each in self._under_way if each.ended is None]
        tokens = self._tokens + sum(len(each.token_times) for each in self._under_way)
        seconds = time.monotonic() - self.load.started if self.load.started else 0.0
        return (
            f"{seconds:.0f} s of {self._whole()}: {self._known} requests, "
            f"{len(self._under_way)} under way, {self._failed} failed, {tokens} tokens"
        )

    def _whole(self) -> str:
        if self.shape.seconds is not None:
            return f"{self.shape.seconds:.0f} s"
        return f"{self.shape.requests} requests"


@asynccontextmanager
async def shown(progress: Progress) -> AsyncIterator[None]:
    """Show the progress while the block runs."""
    telling = asyncio.create_task(_tell(progress))
    try:
        yield
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling


async def _tell(progress: Progress) -> None:
    terminal = console(stderr=True)
    if not terminal.is_terminal:
        while True:
            await asyncio.sleep(LINE_SECONDS)
            terminal.print(progress.line(), soft_wrap=True)
    with terminal.status("") as status:
        while True:
            status.update(progress.line())
            await asyncio.sleep(STATUS_SECONDS)
