"""How the cloud decides an edge's drafts.

Blocks are taken in as they come; a pass runs when one was asked for and the state it must start
from is here, and is made up for when it comes. Where the whole model is here the cloud can go on by
itself. Knows neither HTTP nor maths.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.cloud import verification
from services.cloud.contexts import ContextStore, Standing, VerifiedContext
from services.cloud.engine import CloudEngine, Pass
from services.cloud.passes import Observer
from services.cloud.running import leave, run
from shared.decoding.sampling import Choice
from shared.errors import Malformed
from shared.protocol.messages import Block, Want
from shared.runtime.deadline import NEVER, Deadline
from shared.runtime.model_thread import ModelThread


@dataclass(frozen=True, slots=True)
class Verifier:
    """Runs the passes of `verified` sessions.

    Args:
        thread: owns `engine`.
        compute_format: of this cloud's layers; states can be made here for an edge of the same.
        tau: choices closer than this are counted as near ties.
        reorder_seconds: how long blocks wait for those before them.
    """

    store: ContextStore
    engine: CloudEngine
    thread: ModelThread[Pass, tuple[Choice, ...]]
    observer: Observer
    compute_format: str
    tau: float
    reorder_seconds: float

    async def take(
        self, context: VerifiedContext, blocks: Sequence[Block], deadline: Deadline = NEVER
    ) -> int | None:
        """Take in blocks and decide what they want; returns the position from which the edge has to
        send again, if it does. The caller has the context's `turn`, as in `run_ahead`.

        Raises:
            Malformed: a block contradicts itself or what was confirmed.
            Overloaded, OutOfMemory: no room now.
            DeadlinePassed: no pass had begun by then; a later block makes up for it.
        """
        if not await self._apply_in_time(context, blocks, deadline):
            deadline.require()
            return min(context.held, context.through)
        wants = any(block.want is Want.NOW for block in blocks)
        context.hungry = (context.hungry or wants) and not context.ended
        if context.hungry and await self._decide(context, deadline):
            context.hungry = False
        return None

    async def run_ahead(
        self, context: VerifiedContext, position: int, deadline: Deadline = NEVER
    ) -> bool:
        """Decide `position` without being asked again: by the whole model, or from the edge's state
        where that has come. Not where the edge has announced a node for what is decided: then its
        state is about to come, and drafts with it. True if it was decided.
        """
        if context.through != position or context.ended or context.announced:
            return False
        if verification.can_verify(context):
            await self._run(context, verification.plan(context, self.engine), deadline)
            return True
        return self._has_trunk(context) and await self._alone(context, deadline)

    async def _apply_in_time(
        self, context: VerifiedContext, blocks: Sequence[Block], deadline: Deadline
    ) -> bool:
        """Apply blocks; where the edge knows of more decided tokens than are here, wait a while for
        the blocks that bring them. False if they do not come.
        """
        ahead = self._apply(context, blocks) is Standing.AHEAD
        context.turn.notify_all()
        patience = 0 if context.taken_over else min(self.reorder_seconds, deadline.left)
        try:
            async with asyncio.timeout(patience if ahead else None):
                await context.turn.wait_for(lambda: blocks[-1].acknowledged <= context.through)
        except TimeoutError:
            return False
        return True

    def _apply(self, context: VerifiedContext, blocks: Sequence[Block]) -> Standing:
        standing = Standing.STALE
        for block in blocks:
            coded = block.states
            final = block.tokens and block.start < block.binding
            if coded is None and final and not self._has_trunk(context):
                raise Malformed("this cloud cannot make the states of these tokens", code="shape")
            self.store.make_room(context, len(coded.payload) + len(coded.scales) if coded else 0)
            standing = context.apply(block)
        return standing

    def _has_trunk(self, context: VerifiedContext) -> bool:
        """Whether the layers below the split are here, and compute as the edge's do."""
        if not context.carries_states:
            return True
        same = context.opening.trunk_format == self.compute_format
        return self.engine.model.span.start == 0 and same

    async def _decide(self, context: VerifiedContext, deadline: Deadline) -> bool:
        """Run a pass if one can decide anything; true if it did."""
        if verification.can_verify(context):
            await self._run(context, verification.plan(context, self.engine), deadline)
            return True
        if context.held < context.through == context.as_ids and not context.ended:
            return await self._alone(context, deadline)
        return False

    async def _alone(self, context: VerifiedContext, deadline: Deadline = NEVER) -> bool:
        decided = context.through
        while context.through == decided and not context.ended:
            if context.carries_states:
                planned = verification.plan_alone(context, self.engine)
            else:
                planned = verification.plan(context, self.engine)
            await self._run(context, planned, deadline, alone=True)
        return True

    async def _run(
        self,
        context: VerifiedContext,
        planned: verification.Verification,
        deadline: Deadline = NEVER,
        *,
        alone: bool = False,
    ) -> None:
        planned.work.deadline = deadline
        needed = verification.bytes_needed(context, self.engine, alone=alone)
        self.store.make_room(context, needed)
        work = planned.work
        coded = planned.coded if work.tap is not None else None
        try:
            completed = await run(work, context, self.store, self.thread, self.observer, coded)
        except BaseException:
            verification.undo(planned)
            raise
        verdict = verification.settle(context, planned, completed.value, self.tau)
        leave(work, context, self.store)
        self.observer.verified(
            drafts=len(planned.nodes),
            accepted=verdict.accepted,
            decided=verdict.decided - verdict.accepted,
        )
