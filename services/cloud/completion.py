"""How the cloud finishes an edge's tokens, on one page.

A block arrives, waits for its predecessor if that is still under way, and is applied to the
session's context; if it wants tokens, one pass runs every position the KV lacks (prompt, kept
tokens, the uncertain one: the same call), the full model judges the kept tokens on the way and
chooses the one asked for; the report says all the edge may not know. Knows neither HTTP nor maths.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from services.cloud.contexts import Context, ContextStore, Standing
from services.cloud.engine import CloudEngine, Pass
from services.cloud.passes import bytes_needed, plan, settle
from services.cloud.welcome import Welcome
from shared.decoding.sampling import Choice
from shared.errors import Invalid
from shared.protocol.digest import DIGEST_BYTES
from shared.protocol.messages import Block, Pressure, Report, Want
from shared.runtime.background import Background
from shared.runtime.model_thread import ModelThread

T = TypeVar("T")


class Observer(Protocol):
    """Told what the full model did, for metrics."""

    def passed(self, mode: str, *, judged: int, disagreed: int, decided: int) -> None:
        """A pass ended: tokens of the edge it judged, those it disagreed with, and tokens it
        chose itself.
        """

    def rewound(self) -> None:
        """A block was answered with the position to send again from."""


@dataclass(slots=True)
class Completion:
    """The cloud's side of every session.

    Args:
        thread: owns `engine` and runs its passes.
        reorder_seconds: how long a block waits for the one before it.
    """

    welcome: Welcome
    store: ContextStore
    engine: CloudEngine
    thread: ModelThread[Pass, tuple[Choice, ...]]
    observer: Observer
    reorder_seconds: float
    background: Background = field(default_factory=Background)

    async def accept(self, block: Block) -> Report:
        """Apply a block, decide what it wants, and report.

        Raises:
            Mismatch, Invalid, Malformed: the block is refused and the session untouched.
            Overloaded: no room now.
        """
        self._check(block)
        return await self._to_the_end(self._accept(block, time.perf_counter()))

    async def stream(self, block: Block) -> AsyncGenerator[Report]:
        """Apply a block and go on alone for `count` tokens, with a report after each.

        Raises as `accept`, before the first report; closing the iterator ends the run after the
        token under way.
        """
        self._check(block)
        began, wanted = time.perf_counter(), block.start + len(block.tokens) + block.count
        with self.store.using(block.session, block.opening) as context:
            if context is not None and context.carries_states:
                raise Invalid("only a session without states can run ahead", field="count")
            report = await self._to_the_end(self._accept(block, began))
            yield report
            if context is None or report.need_from is not None:
                return
            acknowledged = report.through
            while acknowledged < wanted and not self._ended(context):
                if not await self._to_the_end(self._go_on(context, acknowledged)):
                    return
                yield self._report(context, acknowledged, began)
                acknowledged = context.through

    def close(self, session: str) -> None:
        """Forget a session."""
        self.store.close(session)

    async def _accept(self, block: Block, began: float) -> Report:
        with self.store.using(block.session, block.opening) as context:
            if context is None:
                return self._unknown(block, began)
            standing = await self._apply(context, block)
            end = block.start + len(block.tokens)
            need = None
            if standing in (Standing.AHEAD, Standing.DIVERGED):
                held = context.states.end if context.carries_states else context.through
                need = (
                    context.confirmed
                    if standing is Standing.DIVERGED
                    else min(held, context.through)
                )
            elif block.want is Want.NOW and standing is Standing.APPLIED:
                await self._decide(context, end)
            elif block.want is Want.SOON:
                self.background.spawn(self._catch_up(context))
            return self._report(context, block.acknowledged, began, held=end, need_from=need)

    async def _apply(self, context: Context, block: Block) -> Standing:
        """Apply `block`, waiting a while for the one before it."""
        async with context.turn:
            coded = block.states
            self.store.make_room(context, len(coded.payload) + len(coded.scales) if coded else 0)
            deadline = time.monotonic() + self.reorder_seconds
            while (standing := context.apply(block)) is Standing.AHEAD:
                if not await _changed(context.turn, deadline - time.monotonic()):
                    return Standing.AHEAD
            context.turn.notify_all()
        return standing

    async def _decide(self, context: Context, position: int) -> None:
        """Choose the token at `position` in one pass; in none if a duplicate request came first."""
        async with context.turn:
            if context.through == position and not self._ended(context):
                await self._pass(context, decide=True)

    async def _go_on(self, context: Context, position: int) -> bool:
        """Decide `position` of a session that was not closed meanwhile; true if it was not."""
        with self.store.using(context.session, None) as current:
            if current is not context:
                return False
            await self._decide(context, position)
            return context.through > position

    async def _catch_up(self, context: Context) -> None:
        with self.store.using(context.session, None) as current:
            if current is context:
                async with context.turn:
                    await self._pass(context, decide=False)

    async def _pass(self, context: Context, *, decide: bool) -> None:
        self.store.make_room(context, bytes_needed(context, self.engine))
        planned = plan(context, self.engine, decide=decide)
        if planned is None:
            return
        completed = await self.thread.run(planned.work)
        context.passes += 1
        context.compute_seconds += completed.compute_seconds
        judged, disagreed = settle(context, planned, completed.value)
        self.observer.passed(
            context.opening.mode, judged=judged, disagreed=disagreed, decided=int(decide)
        )

    def _check(self, block: Block) -> None:
        if block.opening is not None:
            self.welcome.check_opening(block.opening)
        self.welcome.check_block(block)
        if (block.want is Want.NOW) != (block.count > 0):
            raise Invalid("count goes with want `now`, and only with it", field="count")

    def _ended(self, context: Context) -> bool:
        opening = context.opening
        ended = (
            context.through > opening.prompt_tokens
            and context.tokens[-1] in opening.sampling.eos_ids
        )
        return ended or context.through >= opening.max_positions

    def _report(
        self,
        context: Context,
        acknowledged: int,
        began: float,
        *,
        held: int = 0,
        need_from: int | None = None,
    ) -> Report:
        if need_from is not None:
            self.observer.rewound()
        return context.report(
            acknowledged=acknowledged,
            held=max(acknowledged, held),
            seconds=time.perf_counter() - began,
            pressure=self._pressure(),
            need_from=need_from,
        )

    def _unknown(self, block: Block, began: float) -> Report:
        """The session is not here (never opened, expired, or another replica's): ask for
        everything.
        """
        self.observer.rewound()
        return Report(
            session=block.session,
            revision=block.revision,
            sequence=block.sequence,
            through=0,
            digest=bytes(DIGEST_BYTES),
            need_from=0,
            seconds=time.perf_counter() - began,
            pressure=self._pressure(),
        )

    def _pressure(self) -> Pressure:
        return Pressure(queued=self.thread.waiting, allowed_nodes=0)

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, letting it finish when the caller goes away: a context is never left
        between two states.
        """
        return await asyncio.shield(self.background.spawn(work))


async def _changed(turn: asyncio.Condition, seconds: float) -> bool:
    """Wait for another block to be applied; false once `seconds` have passed."""
    if seconds <= 0:
        return False
    try:
        async with asyncio.timeout(seconds):
            await turn.wait()
    except TimeoutError:
        return False
    return True
