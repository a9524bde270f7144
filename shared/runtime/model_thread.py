"""One thread owns one engine; the event loop submits work and waits.

Steps are formed continuously: whatever waits when a step ends goes into the next one, oldest first,
within a budget of rows; a long prompt is run in chunks beside everybody else's single tokens. Knows
nothing of models, sessions or HTTP.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Generic, Self, TypeVar

from shared.errors import Overloaded
from shared.runtime.line import Line
from shared.runtime.work import Completed, Engine, Failed, Work

# A work of fewer rows is somebody's next token, or drafts for it; a longer one is a prompt.
SHORT = 16

W = TypeVar("W", bound=Work)
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Entry(Generic[W, R]):
    work: W
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Completed[R]]"
    submitted: float
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    started: bool = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done.cancelled()


@dataclass(slots=True)
class ModelThread(Generic[W, R]):
    """Feeds `engine` from a bounded queue.

    Args:
        engine: runs only on this thread.
        name: of the thread, for stack dumps.
        max_rows: row budget of one step; a single work is never starved by it.
        max_waiting: works queued or running beyond which `run` raises `Overloaded`.
        stretch: how many times longer a step may take for the rows of a long work beside short
            ones, as measured; a token of theirs comes that much later while it lasts.
        on_start: called on the thread when a work begins, with the seconds it waited.
        on_step: called on the thread after every step with (seconds, rows, works); must be quick
            and thread-safe.
    """

    engine: Engine[W, R]
    name: str
    max_rows: int
    max_waiting: int
    on_step: Callable[[float, int, int], None] | None = None
    on_start: Callable[[float], object] | None = None
    stretch: float = math.inf
    _rows: Line = field(default_factory=Line)
    _entries: "deque[_Entry[W, R]]" = field(default_factory=deque)
    _errands: "list[Callable[[], None]]" = field(default_factory=list)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Works queued or running."""
        return sum(not entry.cancelled for entry in self._entries.copy())

    async def run(self, work: W) -> Completed[R]:
        """Queue `work` and wait for its result; see `submit`."""
        return await self.submit(work)

    def submit(self, work: W) -> "asyncio.Future[Completed[R]]":
        """Queue `work` at once; the future has its result, or whatever the engine failed it with.
        Cancelling the future drops the work at the next step's start.

        Raises:
            Overloaded: the queue is full or the thread is closing.
        """
        loop = asyncio.get_running_loop()
        entry = _Entry(work, loop, loop.create_future(), time.perf_counter())
        with self._wake:
            if self._closed:
                raise _closing()
            if (waiting := self.waiting) >= self.max_waiting:
                raise Overloaded(f"{waiting} works are waiting, the most allowed")
            self._entries.append(entry)
            self._wake.notify()
        return entry.done

    def post(self, errand: Callable[[], None]) -> None:
        """Run `errand` on the thread between two steps: how what a step may be using is given
        back. It must not raise.
        """
        with self._wake:
            self._errands.append(errand)
            self._wake.notify()

    def _serve(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                began = time.perf_counter()
                for entry, _ in batch:
                    if not entry.started:
                        self._start(entry, began)
                outcomes = self._step(batch)
                seconds = time.perf_counter() - began
                self._rows.take(sum(rows for _, rows in batch), seconds)
                self._charge(batch, seconds)
                self._settle(batch, outcomes)
        finally:
            # Also when a mistake of ours ends the thread: nobody may wait for it for ever.
            self._refuse_rest()

    def _start(self, entry: _Entry[W, R], now: float) -> None:
        entry.started = True
        entry.queue_seconds = now - entry.submitted
        if self.on_start is not None:
            self.on_start(entry.queue_seconds)

    def _next_batch(self) -> "list[tuple[_Entry[W, R], int]] | None":
        with self._wake:
            while not self._closed:
                self._entries = deque(e for e in self._entries if not e.cancelled)
                self._run_errands()
                if self._entries:
                    return self._allot()
                self._wake.wait()
            return None

    def _allot(self) -> "list[tuple[_Entry[W, R], int]]":
        """Share the budget out: a row each, so that nobody's single token waits for a long prompt;
        then the short works have theirs; what is left goes to the oldest, so that prompts finish
        one after the other.
        """
        entries = list(islice(self._entries, self.max_rows))
        left = self.max_rows - len(entries)
        wanted = [entry.work.rows - 1 for entry in entries]
        given = [0] * len(entries)
        short = [n for n, more in enumerate(wanted) if more < SHORT]
        long = [n for n, more in enumerate(wanted) if more >= SHORT]
        for part in (short, long):
            if part is long and short:
                left = min(left, self._room(len(entries) + sum(given)))
            for n in part:
                given[n] = min(wanted[n], left)
                left -= given[n]
        return [(entry, 1 + more) for entry, more in zip(entries, given, strict=True)]

    def _room(self, rows: int) -> int:
        """Rows that may join so many without the step taking more than `stretch` times as long;
        where nothing is known yet, all there are.
        """
        if not self._rows.slope or self.stretch == math.inf:
            return self.max_rows
        # A line through steps of many rows may say that few take less than nothing.
        seconds = max(0.0, self._rows.at(rows))
        return int((self.stretch - 1) * seconds / self._rows.slope)

    def _step(self, batch: "list[tuple[_Entry[W, R], int]]") -> Sequence[R | Failed | None]:
        try:
            return self.engine.step([(entry.work, rows) for entry, rows in batch])
        except Exception as error:
            # Whatever went wrong belongs to the callers of this step; the thread must serve the
            # next ones.
            return [Failed(error)] * len(batch)

    def _charge(self, batch: "list[tuple[_Entry[W, R], int]]", seconds: float) -> None:
        charged = sum(entry.work.charge for entry, _ in batch)
        for entry, _ in batch:
            if charged:
                entry.compute_seconds += seconds * entry.work.charge / charged
        if self.on_step is not None:
            self.on_step(seconds, sum(rows for _, rows in batch), len(batch))

    def _settle(
        self, batch: "list[tuple[_Entry[W, R], int]]", outcomes: Sequence[R | Failed | None]
    ) -> None:
        finished = [(e, o) for (e, _), o in zip(batch, outcomes, strict=True) if o is not None]
        gone = {id(entry) for entry, _ in finished}
        with self._wake:
            self._entries = deque(e for e in self._entries if id(e) not in gone)
        for loop in {entry.loop for entry, _ in finished}:
            _post(loop, [(e, o) for e, o in finished if e.loop is loop])

    def _run_errands(self) -> None:
        errands, self._errands = self._errands, []
        for errand in errands:
            errand()

    def _refuse_rest(self) -> None:
        with self._wake:
            self._closed = True
            self._run_errands()
            rest, self._entries = list(self._entries), deque()
        for entry in rest:
            refused: tuple[_Entry[W, R], R | Failed] = (entry, Failed(_closing()))
            _post(entry.loop, [refused])


def _closing() -> Overloaded:
    return Overloaded("the engine is shutting down")


def _post(
    loop: asyncio.AbstractEventLoop, finished: "list[tuple[_Entry[W, R], R | Failed]]"
) -> None:
    """Hand results over to their event loop in one wake-up; a loop that is gone has nobody left
    to tell.
    """
    if not loop.is_closed():
        loop.call_soon_threadsafe(_resolve, finished)


def _resolve(finished: "list[tuple[_Entry[W, R], R | Failed]]") -> None:
    for entry, outcome in finished:
        if entry.done.done():
            continue
        if isinstance(outcome, Failed):
            entry.done.set_exception(outcome.error)
        else:
            entry.done.set_result(Completed(outcome, entry.compute_seconds, entry.queue_seconds))
