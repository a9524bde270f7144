"""How the cloud finishes an edge's tokens, on one page.

A block arrives, waits for its predecessor if that is still under way, and is applied to the
session's context; if it wants tokens, one pass runs every position the KV lacks (prompt, kept
tokens, the uncertain one: the same call), the full model judges the kept tokens on the way and
chooses the one asked for; the report says all the edge may not know. Knows neither HTTP nor maths.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from services.cloud.contexts import (
    Behind,
    Context,
    ContextStore,
    Standing,
    VerifiedContext,
    key_of,
)
from services.cloud.engine import CloudEngine, Pass
from services.cloud.passes import Observer, bytes_needed, plan, settle
from services.cloud.running import leave, run
from services.cloud.verifier import Verifier
from services.cloud.welcome import Welcome
from shared.decoding.sampling import Choice
from shared.errors import Draining, Invalid, Malformed, Overloaded
from shared.protocol.digest import DIGEST_BYTES
from shared.protocol.messages import Block, Pressure, Report, Want
from shared.runtime.background import Background
from shared.runtime.deadline import NEVER, Deadline
from shared.runtime.lifecycle import Lifecycle
from shared.runtime.model_thread import ModelThread

T = TypeVar("T")

# Times a request is done over because another replica went on with its session meanwhile.
TRIES = 4


@dataclass(slots=True)
class Completion:
    """The cloud's side of every session.

    Args:
        thread: owns `engine` and runs its passes.
        verifier: runs those of `verified` sessions.
        reorder_seconds: how long a block waits for the one before it.
        lifecycle: whether this replica is about to end: it then goes on with the sessions it holds,
            until their edges have turned to another.
    """

    welcome: Welcome
    store: ContextStore
    engine: CloudEngine
    thread: ModelThread[Pass, tuple[Choice, ...]]
    verifier: Verifier
    observer: Observer
    reorder_seconds: float
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    background: Background = field(default_factory=Background)

    async def accept(
        self, blocks: Sequence[Block], deadline: Deadline | None = None, owner: str = ""
    ) -> Report:
        """Apply the blocks of a body, decide what the last one wants, and report. The session is
        the `owner`'s, as everywhere here.

        Raises:
            Mismatch, Invalid, Malformed: the block is refused and the session untouched.
            Overloaded: no room now.
            Draining: this replica is about to end, and does not hold the session.
            DeadlinePassed: what was asked for had not begun by then.
            NotFound: the session is another's.
        """
        self._check(blocks, owner)
        deadline = deadline or Deadline()
        accepting = self._accept(blocks, time.perf_counter(), deadline, owner)
        return await self._to_the_end(accepting, deadline)

    async def stream(
        self, blocks: Sequence[Block], deadline: Deadline | None = None, owner: str = ""
    ) -> AsyncGenerator[Report]:
        """Apply the blocks of a body and go on alone, with a report after each token: for `count`
        tokens, or in `verified` for `count` - 1 after those of the pass; no further than to the
        first report that says `leaving`.

        Raises as `accept`, before the first report, which is all that `deadline` is for; closing
        the iterator ends the run after the token under way.
        """
        self._check(blocks, owner)
        deadline, going = deadline or Deadline(), Deadline()
        block = blocks[-1]
        began, wanted = time.perf_counter(), block.start + len(block.tokens) + block.count
        opening, revision = blocks[0].opening, block.revision
        async with self.store.using(block.session, opening, revision, owner) as context:
            alone = isinstance(context, VerifiedContext)
            if context is not None and context.carries_states and not alone:
                raise Invalid("only a session without states can run ahead", field="count")
            accepting = self._accept(blocks, began, deadline, owner)
            report = await self._to_the_end(accepting, deadline)
            yield report
            if context is None or report.need_from is not None:
                return
            acknowledged = report.through
            if alone:
                wanted = acknowledged + block.count - 1
            while acknowledged < wanted and not context.ended and not report.leaving:
                going_on = self._go_on(context, acknowledged, began, going)
                following = await self._to_the_end(going_on, going)
                if following is None:
                    return
                report = following
                yield report
                acknowledged = report.through

    async def close(self, session: str, revision: int, owner: str = "") -> None:
        """Forget a session that has not gone on since `revision`; `NotFound` if it is another's."""
        await self._to_the_end(self.store.close(session, revision, owner), Deadline())

    async def _accept(
        self, blocks: Sequence[Block], began: float, deadline: Deadline, owner: str
    ) -> Report:
        block = blocks[-1]
        opening, revision = blocks[0].opening, block.revision
        async with self.store.using(block.session, opening, revision, owner) as context:
            if context is None:
                return self._unknown(block, began)
            if len(blocks) > 1 and not isinstance(context, VerifiedContext):
                raise Malformed("only a tree of drafts takes several blocks")
            return await self._abreast(lambda: self._answer(context, blocks, began, deadline))

    async def _abreast(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do `work` on a context, and again where another replica had gone on with it: what that
        one decided is then answered from the log.
        """
        for _ in range(TRIES):
            with suppress(Behind):
                return await work()
        raise Overloaded("other replicas go on with this session at the same time")

    async def _answer(
        self, context: Context, blocks: Sequence[Block], began: float, deadline: Deadline
    ) -> Report:
        """Apply blocks, decide, save, report: in one turn, so a report tells only what is saved."""
        block = blocks[-1]
        async with context.turn:
            if isinstance(context, VerifiedContext):
                need = await self.verifier.take(context, blocks, deadline)
                await self.store.save(context)
                return self._report(context, block.acknowledged, began, need_from=need)
            standing = await self._apply(context, block, deadline)
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
                await self._decide(context, end, deadline)
            elif block.want is Want.SOON:
                self.background.spawn(self._catch_up(context))
            await self.store.save(context)
            return self._report(context, block.acknowledged, began, held=end, need_from=need)

    async def _apply(self, context: Context, block: Block, deadline: Deadline) -> Standing:
        """Apply `block`, waiting a while for the one before it where it may be under way."""
        coded = block.states
        self.store.make_room(context, len(coded.payload) + len(coded.scales) if coded else 0)
        patience = Deadline.after(min(self.reorder_seconds, deadline.left))
        while (standing := context.apply(block)) is Standing.AHEAD:
            if context.taken_over:
                return Standing.AHEAD
            if not await _changed(context.turn, patience.left):
                deadline.require()
                return Standing.AHEAD
        context.turn.notify_all()
        return standing

    async def _decide(self, context: Context, position: int, deadline: Deadline) -> None:
        """Choose the token at `position` in one pass; in none if a duplicate request came first."""
        if context.through == position and not context.ended:
            await self._pass(context, decide=True, deadline=deadline)

    async def _go_on(
        self, context: Context, position: int, began: float, deadline: Deadline
    ) -> Report | None:
        """Decide `position` and report it; `None` if it was not decided, or the session closed."""

        async def decide() -> Report | None:
            async with context.turn:
                if isinstance(context, VerifiedContext):
                    await self.verifier.run_ahead(context, position, deadline)
                else:
                    await self._decide(context, position, deadline)
                await self.store.save(context)
                decided = context.through > position
                return self._report(context, position, began) if decided else None

        with self.store.holding(context) as held:
            return await self._abreast(decide) if held else None

    async def _catch_up(self, context: Context) -> None:
        with self.store.holding(context) as held:
            if held:
                async with context.turn:
                    await self._pass(context, decide=False)

    async def _pass(self, context: Context, *, decide: bool, deadline: Deadline = NEVER) -> None:
        self.store.make_room(context, bytes_needed(context, self.engine))
        planned = plan(context, self.engine, decide=decide)
        if planned is None:
            return
        planned.work.deadline = deadline
        completed = await run(planned.work, context, self.store, self.thread, self.observer)
        judged, disagreed = settle(context, planned, completed.value)
        leave(planned.work, context, self.store)
        self.observer.passed(
            context.opening.mode, judged=judged, disagreed=disagreed, decided=int(decide)
        )

    def _check(self, blocks: Sequence[Block], owner: str) -> None:
        for block in blocks:
            if block.opening is not None:
                self.welcome.check_opening(block.opening)
            self.welcome.check_block(block)
            if (block.want is Want.NOW) != (block.count > 0):
                raise Invalid("count goes with want `now`, and only with it", field="count")
        if self.lifecycle.draining and key_of(owner, blocks[0].session) not in self.store:
            raise Draining("this replica is about to end and takes no new session")

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
            pressure=self._pressure(context),
            need_from=need_from,
            leaving=self.lifecycle.draining,
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
            pressure=self._pressure(None),
        )

    def _pressure(self, context: Context | None) -> Pressure:
        allowed = context.allowed_nodes if isinstance(context, VerifiedContext) else 0
        return Pressure(queued=self.thread.waiting, allowed_nodes=allowed)

    async def _to_the_end(self, work: Coroutine[Any, Any, T], deadline: Deadline) -> T:
        """Await `work`, letting it finish when the caller goes away: a context is never left
        between two states. A pass of it that has not begun by then is not begun.
        """
        try:
            return await asyncio.shield(self.background.spawn(work))
        except asyncio.CancelledError:
            deadline.give_up()
            raise


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
