"""One thread owns one engine; the event loop submits work and waits.

Steps are formed continuously: whatever waits when a step ends may go into the next one; who does,
and with how many rows, is a `Schedule`'s choice. A work left out is parked at a token boundary, its
KV kept. Knows nothing of models, sessions or HTTP.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Self, TypeVar

from shared.errors import DeadlinePassed, Overloaded
from shared.runtime.deadline import NEVER, Deadline
from shared.runtime.retry import Throughput, spread_out
from shared.runtime.schedule import Schedule, is_short
from shared.runtime.work import (
    PRIORITIES,
    Claim,
    Completed,
    Engine,
    Failed,
    Priority,
    Stepped,
    Work,
)

W = TypeVar("W", bound=Work)
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Entry(Generic[W, R]):
    work: W
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Completed[R]]"
    submitted: float
    since: float
    deadline: Deadline
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    started: bool = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done.cancelled()

    @property
    def claim(self) -> Claim:
        """See `schedule.Waiting`."""
        return self.work.claim

    @property
    def rows(self) -> int:
        """See `schedule.Waiting`."""
        return self.work.rows


@dataclass(slots=True)
class ModelThread(Generic[W, R]):
    """Feeds `engine` from a bounded queue.

    Args:
        engine: runs only on this thread.
        name: of the thread, for stack dumps.
        schedule: forms the steps; used on this thread only.
        max_waiting: works of a class queued or running beyond which `run` raises `Overloaded`.
        max_waiting_rows: rows they may have left together; 0 is no bound. A work that is alone may
            have more.
        on_start: called on the thread when a work begins, with the seconds it waited.
        on_step: called on the thread after every step; must be quick and thread-safe.
    """

    engine: Engine[W, R]
    name: str
    schedule: Schedule
    max_waiting: int
    on_step: Callable[[Stepped], None] | None = None
    on_start: Callable[[float, Priority], object] | None = None
    max_waiting_rows: int = 0
    _throughput: Throughput = field(default_factory=Throughput)
    _entries: "deque[_Entry[W, R]]" = field(default_factory=deque)
    _errands: "list[Callable[[], None]]" = field(default_factory=list)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _parked: int = 0
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
        return len(self._waiting())

    def waiting_as(self, priority: Priority) -> int:
        """Those of them of one class."""
        return sum(entry.claim.priority == priority for entry in self._waiting())

    def _waiting(self) -> "list[_Entry[W, R]]":
        return [entry for entry in self._entries.copy() if not entry.cancelled]

    async def run(self, work: W, deadline: Deadline = NEVER) -> Completed[R]:
        """Queue `work` and wait for its result; see `submit`."""
        return await self.submit(work, deadline)

    def submit(self, work: W, deadline: Deadline = NEVER) -> "asyncio.Future[Completed[R]]":
        """Queue `work` at once; the future has its result, or whatever the engine failed it with.
        Cancelling the future drops the work at the next step's start. So does `deadline`, with
        `DeadlinePassed`, where the work has not been in a step by then, and a claim that is not
        `wanted` any more, wherever the work is.

        Raises:
            Overloaded: the queue is full, and may have room after the time all that waits takes; or
                the thread is closing.
        """
        loop = asyncio.get_running_loop()
        now = time.perf_counter()
        entry = _Entry(work, loop, loop.create_future(), now, now, deadline)
        with self._wake:
            if self._closed:
                raise _closing()
            self._require_room(work)
            self._entries.append(entry)
            self._wake.notify()
        return entry.done

    def _require_room(self, work: W) -> None:
        waiting = [e.rows for e in self._waiting() if e.claim.priority == work.claim.priority]
        rows, most = sum(waiting), self.max_waiting_rows
        if len(waiting) >= self.max_waiting:
            problem = f"{len(waiting)} works are waiting, the most allowed"
        elif most and waiting and rows + work.rows > most:
            problem = f"{rows} rows are waiting, and {work.rows} more are more than {most}"
        else:
            return
        seconds = self._throughput.seconds_for(rows)
        raise Overloaded(problem, retry_after=spread_out(seconds))

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
                shares = [(entry.claim, rows, is_short(entry.rows)) for entry, rows in batch]
                outcomes = self._step(batch)
                ended = time.perf_counter()
                self.schedule.ran(shares, ended - began, ended)
                self._charge(batch, ended - began)
                for entry, _ in batch:
                    entry.since = ended
                self._settle(batch, outcomes)
        finally:
            # Also when a mistake of ours ends the thread: nobody may wait for it for ever.
            self._refuse_rest()

    def _start(self, entry: _Entry[W, R], now: float) -> None:
        entry.started = True
        entry.queue_seconds = now - entry.submitted
        if self.on_start is not None:
            self.on_start(entry.queue_seconds, entry.claim.priority)

    def _next_batch(self) -> "list[tuple[_Entry[W, R], int]] | None":
        with self._wake:
            while not self._closed:
                self._entries = deque(e for e in self._entries if not self._drop(e))
                self._run_errands()
                now = time.perf_counter()
                if not self._entries:
                    self._wake.wait()
                elif (seconds := self.schedule.hold(self._entries, now)) > 0:
                    self._wake.wait(seconds)
                else:
                    return self._share(now)
            return None

    def _drop(self, entry: _Entry[W, R]) -> bool:
        """Whether nobody waits for a work that waits; who has stopped by a deadline, or by closing
        its session, is told so.
        """
        if entry.cancelled:
            return True
        if entry.started and entry.claim.wanted:
            return False
        try:
            if not entry.claim.wanted:
                raise DeadlinePassed("the session was closed: this was not done")
            entry.deadline.require()
        except DeadlinePassed as error:
            late: tuple[_Entry[W, R], R | Failed] = (entry, Failed(error))
            _post(entry.loop, [late])
            return True
        return False

    def _share(self, now: float) -> "list[tuple[_Entry[W, R], int]]":
        shares = self.schedule.share(self._entries, now)
        self._parked = shares.count(0)
        return [(entry, rows) for entry, rows in zip(self._entries, shares, strict=True) if rows]

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
        rows = dict.fromkeys(PRIORITIES, 0)
        for entry, count in batch:
            rows[entry.claim.priority] += count
        self._throughput.took(sum(rows.values()), seconds)
        if self.on_step is not None:
            self.on_step(Stepped(seconds, rows, self._parked))

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
