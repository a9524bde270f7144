"""An engine's thread in virtual time: one step after the other, each as long as it is priced."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from benchmarks.paced.model import PacedModel
from shared.errors import Abandoned
from shared.model import Segment
from shared.runtime.deadline import NEVER, Deadline
from shared.runtime.work import Completed, Engine, Failed, Work

# How often a step asks whether it is still wanted: about a layer of the paper's model.
LOOK_SECONDS = 0.001

W = TypeVar("W", bound=Work)
R = TypeVar("R")


class PricedModel(PacedModel):
    """A paced model that does not wait: `spent` adds up what its steps cost, in milliseconds."""

    spent = 0.0

    def _hold(self, began: float, milliseconds: float, segments: Sequence[Segment] = ()) -> bool:
        del began, segments
        self.spent += milliseconds
        return True


@dataclass(slots=True)
class VirtualThread(Generic[W, R]):
    """Stands in for `ModelThread`: runs one work at a time, whole, and waits as long as it costs.

    Args:
        model: what `engine` computes with; read for the price of a step.
        device: held during a step; several threads may share one.
        note: told (began, ended, work) of every step, in virtual seconds.
    """

    engine: Engine[W, R]
    model: PricedModel
    device: asyncio.Lock
    note: Callable[[float, float, Any], None]
    waiting: int = 0
    _errands: list[Callable[[], None]] = field(default_factory=list)

    def __enter__(self) -> "VirtualThread[W, R]":
        return self

    def __exit__(self, *_: object) -> None:
        self._run_errands()

    def submit(self, work: W, deadline: Deadline = NEVER) -> "asyncio.Future[Completed[R]]":
        """See `ModelThread.submit`."""
        return asyncio.ensure_future(self.run(work, deadline))

    async def run(self, work: W, deadline: Deadline = NEVER) -> Completed[R]:
        """See `ModelThread.run`; deadlines are of another clock and not held to."""
        del deadline
        loop = asyncio.get_running_loop()
        asked, seconds = loop.time(), 0.0
        self.waiting += 1
        try:
            async with self.device:
                began = loop.time()
                outcome: R | Failed | None = None
                while outcome is None:
                    self._run_errands()
                    self.model.spent = 0.0
                    (outcome,) = self.engine.step([(work, work.rows)])
                    seconds += self.model.spent / 1e3
                    if not await self._spend(work, loop.time() + self.model.spent / 1e3):
                        raise Abandoned
                self.note(began, loop.time(), work)
        finally:
            self.waiting -= 1
        if isinstance(outcome, Failed):
            raise outcome.error
        return Completed(outcome, seconds, began - asked)

    async def _spend(self, work: W, until: float) -> bool:
        """Let a step's time pass; false as soon as the work is not wanted any more."""
        loop = asyncio.get_running_loop()
        while (left := until - loop.time()) > 0:
            if not getattr(work, "wanted", True):
                return False
            await asyncio.sleep(min(left, LOOK_SECONDS))
        return True

    def post(self, errand: Callable[[], None]) -> None:
        """See `ModelThread.post`."""
        self._errands.append(errand)

    def _run_errands(self) -> None:
        errands, self._errands = self._errands, []
        for errand in errands:
            errand()
