"""Puts a plan on the edges: closed loop (users who wait for their answers) or open loop (requests
that arrive when they arrive).

In open loop a request is due at its arrival, whatever became of the ones before it; its latencies
count from then, so that a slow service cannot hide by slowing the load (coordinated omission). It
knows when to ask; it does not know what the answers mean.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from cli.load.plan import Plan, Session, arrivals
from cli.load.requests import STOPPED, UNFINISHED, Seen, ask
from cli.load.targets import Target

# Requests still under way when the load ends get this long.
GRACE_SECONDS = 30.0
# A user's pause after a failed request.
AFTER_FAILURE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Shape:
    """How much is asked: `users` at once or `rate` a second, for `seconds` or `requests`."""

    users: int | None
    rate: float | None
    seconds: float | None
    requests: int | None


@dataclass(slots=True)
class Load:
    """A load under way: everything sent so far is in `seen`, in the order it was sent."""

    targets: Sequence[Target]
    clients: Sequence[httpx.AsyncClient]
    plan: Plan
    parameters: Mapping[str, object]
    seen: list[Seen] = field(default_factory=list)
    started: float = 0.0
    window: float = 0.0
    _left: int | None = None
    _until: float = float("inf")
    _stopped: bool = False
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def run(self, shape: Shape, stopped: asyncio.Event) -> None:
        """Return when all that was asked has ended; early, with what there is, when `stopped`."""
        self.started = time.monotonic()
        self._left = shape.requests
        if shape.seconds is not None:
            self._until = self.started + shape.seconds
        asking = asyncio.ensure_future(
            self._closed(shape.users) if shape.users is not None else self._open(shape.rate or 0.0)
        )
        async with cancelled_by(stopped, lambda: self._stop(asking)):
            await asyncio.wait({asking})
        if self._tasks:
            await asyncio.wait(self._tasks)
        if not asking.cancelled():
            asking.result()
        now = time.monotonic()
        self.window = min(now, self._until) - self.started

    def _stop(self, asking: "asyncio.Future[None]") -> None:
        self._stopped = True
        self._until = min(self._until, time.monotonic())
        asking.cancel()
        for task in self._tasks:
            task.cancel()

    async def _closed(self, users: int) -> None:
        for user in range(users):
            self._spawn(self._user(user, users))
        await self._finish()

    async def _user(self, user: int, users: int) -> None:
        for number in itertools.count(user, users):
            if not self._more():
                return
            await self._session(self.plan.session(number, user), None)

    async def _open(self, rate: float) -> None:
        for number, after in enumerate(arrivals(rate, self.plan.seed)):
            due = self.started + after
            if due >= self._until or self._left == 0:
                break
            await asyncio.sleep(due - time.monotonic())
            self._spawn(self._session(self.plan.session(number, number), due))
        await self._finish()

    async def _session(self, session: Session, due: float | None) -> None:
        text = ""
        for prompt, seed in zip(session.prompts, session.seeds, strict=True):
            # A request that was due goes out, however late the generator is.
            if not self._take(is_due=due is not None):
                return
            text = f"{text}\n\n{prompt}" if text else prompt
            seen = await self._ask(session, text, seed, due)
            if seen.error is not None:
                # A user looks at an error before trying again; a refusing edge is not hammered.
                await asyncio.sleep(AFTER_FAILURE_SECONDS)
                return
            text += seen.text
            due = None

    async def _ask(self, session: Session, inputs: str, seed: int, due: float | None) -> Seen:
        target = self.targets[session.edge]
        seen = Seen(target.name, session.mode, time.monotonic() if due is None else due)
        self.seen.append(seen)
        parameters = {**self.parameters, "mode": session.mode}
        if "temperature" in parameters:
            parameters["seed"] = seed
        try:
            await ask(self.clients[session.edge], seen, inputs, parameters)
        except asyncio.CancelledError:
            seen.error = STOPPED if self._stopped else UNFINISHED
            raise
        return seen

    def _more(self) -> bool:
        return self._left != 0 and time.monotonic() < self._until

    def _take(self, *, is_due: bool) -> bool:
        """Whether one more request may be sent; it then counts."""
        if self._left == 0 or not (is_due or self._more()):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self) -> None:
        """Wait for what is under way: to the end of the load, and the grace after it."""
        if not self._tasks:
            return
        tasks = set(self._tasks)
        end = self._until + GRACE_SECONDS - time.monotonic()
        done, late = await asyncio.wait(tasks, timeout=None if end == float("inf") else end)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        for task in done:
            task.result()


@asynccontextmanager
async def cancelled_by(stopped: asyncio.Event, cancel: Callable[[], object]) -> AsyncIterator[None]:
    """Call `cancel` as soon as `stopped` is set, if that is while the block runs."""

    async def watch() -> None:
        await stopped.wait()
        cancel()

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()
