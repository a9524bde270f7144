"""Jobs for a model thread, and engines that are let through step by step."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.runtime.model_thread import ModelThread
from shared.runtime.schedule import Schedule
from shared.runtime.work import Claim, Failed


@dataclass(eq=False)
class Job:
    """`total` rows under a name, the last of its session unless its claim says otherwise; `failure`
    is how its last step ends.
    """

    name: str
    total: int
    failure: Exception | None = None
    done: int = 0
    charge: int = 1
    claim: Claim = field(default_factory=lambda: Claim(live=False))

    @property
    def rows(self) -> int:
        return self.total - self.done


@dataclass
class Gate:
    """An engine that waits at every step until it is let through, and notes what it was given."""

    open: bool = True
    steps: list[list[tuple[str, int]]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    breaks: Exception | None = None
    _permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def step(self, batch: Sequence[tuple[Job, int]]) -> list[str | Failed | None]:
        self.steps.append([(job.name, rows) for job, rows in batch])
        self.threads.add(threading.get_ident())
        self._started.release()
        if not self.open:
            assert self._permits.acquire(timeout=60)
        if self.breaks is not None:
            failure, self.breaks = self.breaks, None
            raise failure
        return [self._advance(job, rows) for job, rows in batch]

    def _advance(self, job: Job, rows: int) -> str | Failed | None:
        assert 1 <= rows <= job.rows
        job.done += rows
        job.charge = rows
        if job.rows:
            return None
        return Failed(job.failure) if job.failure is not None else job.name

    async def started(self) -> None:
        """Wait until one more step has begun."""
        assert await asyncio.to_thread(self._started.acquire, timeout=60)

    def let(self, steps: int = 1) -> None:
        self._permits.release(steps)


Runner = ModelThread[Job, str]


def runner(gate: Gate, *, max_rows: int = 8, max_waiting: int = 64) -> Runner:
    return ModelThread(gate, "test-engine", Schedule(max_rows), max_waiting)


async def behind(gate: Gate, thread: Runner, jobs: Sequence[Job]) -> list["asyncio.Task[object]"]:
    """Queue `jobs` while the engine stands in a step of another one, so that they wait together."""
    first = asyncio.create_task(thread.run(Job("first", 1)))
    await gate.started()
    tasks: list[asyncio.Task[object]] = [first]
    tasks += [asyncio.create_task(thread.run(job)) for job in jobs]
    await asyncio.sleep(0)
    assert thread.waiting == len(jobs) + 1
    gate.open = True
    gate.let()
    return tasks


@dataclass
class Paced(Gate):
    """An engine whose steps are said to take so long; the thread's clock is its own."""

    now: float = 0.0
    late: float = 0.0

    def rest(self) -> None:
        """Forget the steps noted so far."""
        self.steps.clear()
        self._started = threading.Semaphore(0)

    def step(self, batch: Sequence[tuple[Job, int]]) -> list[str | Failed | None]:
        found = super().step(batch)
        self.now += self.late + 0.080 + 0.005 * sum(rows for _, rows in batch)
        return found
