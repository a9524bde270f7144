"""How a verified text is made, on one page.

The edge goes on drafting whatever is under way: it runs the likeliest candidates, sends what it has
run, and asks for a pass where it doubts its drafts; what the cloud decides comes back in between
and moves the text along. Only decided tokens leave. Knows neither HTTP, text nor the maths of a
layer.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from torch import Tensor

from services.edge.controller import Controller
from services.edge.draft_tree import Decided, Step
from services.edge.draft_uplink import DraftUplink
from services.edge.drafting import Drafted, Drafting, Ranker
from services.edge.drafts import Drafts
from services.edge.engine import EdgeResult, EdgeWork
from services.edge.policy import Pacing, Plan
from services.edge.state import EdgeState
from services.edge.steps import work_of
from shared import quantization
from shared.errors import Abandoned
from shared.runtime.model_thread import ModelThread
from shared.runtime.work import Completed

_log = logging.getLogger(__name__)

# How long the event loop lets a step begin undisturbed before it packs what the last one ran.
HEAD_START_SECONDS = 0.001


@dataclass(slots=True)
class Waits:
    """What the text waited for: seconds without a step under way, and how often they were ended by
    the cloud.
    """

    seconds: float = 0.0
    round_trips: int = 0


@dataclass(slots=True)
class Verified:
    """One verified text in the making: iterate `tokens`.

    Args:
        controller: says how it goes on, each time a pass is asked for.
        degrade: the edge's own candidate stands in while the cloud is lost.
    """

    drafts: Drafts
    uplink: DraftUplink
    state: EdgeState
    thread: ModelThread[EdgeWork, EdgeResult]
    ranker: Ranker
    controller: Controller
    degrade: bool
    pacing: Pacing = field(default_factory=Pacing)
    waits: Waits = field(default_factory=Waits)
    edge_seconds: float = 0.0
    _task: "asyncio.Future[Completed[EdgeResult]] | None" = None
    _exploring: bool = False
    _plans: "set[Plan]" = field(default_factory=set)
    _uncoded: "deque[tuple[Step, Tensor]]" = field(default_factory=deque)
    _coding: asyncio.TimerHandle | None = None
    _broken: BaseException | None = None
    _step: Step | None = None
    _work: Drafting | None = None

    async def tokens(self) -> AsyncGenerator[tuple[Decided, bool]]:
        """Yield decided tokens, and whether each was the edge's own word for want of the cloud; the
        caller ends the text by closing.

        Raises:
            CloudLost, Unfit, Invalid: the cloud refuses or is lost, and nothing may stand in.
        """
        uplink = self.uplink
        self._exploring = self.controller.explores()
        if uplink.as_ids or not self.drafts.travels:
            self._ask_now()
        try:
            while True:
                if self._broken is not None and not uplink.decided:
                    raise self._broken
                self._begin()
                if not self._ask():
                    uplink.offer()
                if (token := self._stand_in()) is not None:
                    yield token, True
                    continue
                if uplink.decided:
                    # Whatever was put off for these tokens is looked at again before waiting.
                    while uplink.decided:
                        yield uplink.decided.popleft(), False
                    continue
                await self._wait()
        finally:
            await self._leave()
            self._remember()

    @property
    def _able(self) -> bool:
        """Whether the cloud can go on by itself."""
        return self.uplink.as_ids or not self.drafts.travels

    @property
    def _row_seconds(self) -> float:
        """What a state takes on the uplink."""
        drafts = self.drafts
        if not drafts.travels:
            return 0.0
        layout = quantization.RowLayout.of(drafts.opening.codec, drafts.states.hidden)
        count = layout.payload + layout.scales
        return count * self.uplink.link.bandwidth.seconds_per_byte

    def _begin(self) -> bool:
        """Start a step over what is most worth running, if none is under way; true if one was."""
        pacing = self.pacing
        if self._task is not None or self._broken is not None:
            return False
        if not pacing.width and self._able:
            return False
        room = min(pacing.most, self.uplink.room) if self.uplink.room else pacing.most
        step = self.drafts.next_step(width=pacing.width, floor=pacing.floor, room=room)
        if step is None:
            return False
        self._step = step
        self._work = work_of(step, self.drafts, self.state, self.ranker, pacing.sure)
        self._task = self.thread.submit(self._work)
        self._task.add_done_callback(self._stepped)
        return True

    async def _leave(self) -> None:
        """Give up the step under way; its KV may be closed once it is out of the queue."""
        task, self._task = self._task, None
        if self._coding is not None:
            self._coding.cancel()
        if task is None or self._work is None:
            return
        self._work.wanted = False
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("the last step of a text failed", exc_info=error)

    def _remember(self) -> None:
        """Tell the controller what this text has cost."""
        spent, drafts = self.uplink.spent, self.drafts
        # The prompt's own pass and token are no draft's; where the cloud goes on by itself its
        # passes and tokens say nothing of drafts.
        made = drafts.end - drafts.opening.prompt_tokens - 1
        pace, step = self.uplink.pace, spent.compute_seconds / max(1, spent.passes)
        if self._plans == {"race"}:
            self.controller.paces.took("race", pace.tokens, pace.seconds, step=step)
        elif self._plans == {"cloud"}:
            self.controller.paces.took("cloud", pace.tokens, pace.seconds, step=step)
        alone = not self._plans - {"draft"}
        if self.edge_seconds and spent.passes > 1 and made > 0 and alone:
            self.controller.seen.take(
                made,
                verify=step,
                missed=max(0, made - drafts.accepted) / made,
                passes=(spent.passes - 1) / made,
            )

    def _stepped(self, task: "asyncio.Future[Completed[EdgeResult]]") -> None:
        """A step has ended: the next one begins before anything else is seen to."""
        if task is not self._task:
            return  # given up
        step, self._step, self._task = self._step, None, None
        assert step is not None
        try:
            states = self._collect(step, task)
            if states is not None:
                self._uncoded.append((step, states))
            begun = self._begin()
        except (Exception, asyncio.CancelledError) as error:  # who iterates `tokens` gets it
            self._broken = error
            begun = False
        if not begun:
            self._code()
        elif self._coding is None:
            # The engine's thread wants the interpreter, and maybe this core, to begin with.
            loop = asyncio.get_running_loop()
            self._coding = loop.call_later(HEAD_START_SECONDS, self._code)

    def _collect(self, step: Step, task: "asyncio.Future[Completed[EdgeResult]]") -> Tensor | None:
        """Take in what a finished step says of the candidates; returns its states, None where it
        was abandoned.
        """
        try:
            completed = task.result()
        except Abandoned:
            self.drafts.dropped(step)
            return None
        drafted = completed.value
        assert isinstance(drafted, Drafted)
        self.edge_seconds += completed.compute_seconds
        if not any(node.decided for node in step.nodes):
            self.controller.ran(len(step.nodes), completed.compute_seconds, whole=drafted.whole)
        self.drafts.ran(step, drafted.rankings, drafted.exits)
        return drafted.states

    def _code(self) -> None:
        """Make ready for the uplink what steps have run."""
        if self._coding is not None:
            self._coding.cancel()
            self._coding = None
        try:
            while self._uncoded:
                step, states = self._uncoded.popleft()
                codec = self.drafts.opening.codec
                coded = quantization.encode(states, codec) if self.drafts.travels else None
                self.drafts.coded(step, coded)
        except Exception as error:  # as above
            self._broken = error
        self.uplink.changed.set()

    def _ask(self) -> bool:
        """Ask for a pass where one is due; true if one was asked for."""
        uplink, drafts = self.uplink, self.drafts
        if uplink.failure is not None or (drafts.travels and not drafts.states.end + uplink.as_ids):
            return False
        chance, count = drafts.doubt()
        resting = self._task is None
        racing = self.pacing.racing and uplink.flying > 0
        due = uplink.owed or (
            count > 0
            and not racing
            and (
                chance < self.pacing.doubt
                or count >= self.pacing.longest
                or resting
                or drafts.end == drafts.opening.prompt_tokens
            )
        )
        if not due and resting and not uplink.flying and not uplink.decided:
            uplink.again()
            due = uplink.failure is None
        if due:
            self._ask_now()
        return due

    def _ask_now(self) -> None:
        link, drafts = self.uplink.link, self.drafts
        pacing = self.pacing = self.controller.pacing(
            link.round_trip_seconds,
            able=self._able,
            row_seconds=self._row_seconds,
            exploring=self._exploring,
        )
        self.uplink.least = pacing.least
        self._plans.add(pacing.plan)
        ahead = min(pacing.ahead, drafts.opening.max_positions - drafts.end)
        self.uplink.ask_for(ahead, announce=ahead > 0 and not pacing.racing)

    async def _wait(self) -> None:
        """Wait for a step's end or news of the cloud."""
        began, resting = time.perf_counter(), self._task is None
        await self.uplink.changed.wait()
        self.uplink.changed.clear()
        if resting:
            self.waits.seconds += time.perf_counter() - began
            self.waits.round_trips += bool(self.uplink.decided)
        if self._step is not None and self._work is not None:
            # What no longer stands on the text is not worth the rest of its layers.
            self._work.wanted = self.drafts.matters(self._step)

    def _stand_in(self) -> Decided | None:
        """The edge's own candidate where the cloud is lost; None while it is not, or until there is
        one.

        Raises:
            TandemError: the request wants the full model's text or none.
        """
        failure = self.uplink.failure
        if failure is None or self.uplink.decided:
            return None
        if not self.degrade:
            raise failure
        ranking = self.drafts.root.ranking
        if ranking is None or self._task is not None:
            return None
        decided = self.drafts.stand_in(ranking.tokens[0])
        if self.uplink.link.usable:
            self.uplink.failure, self.uplink.owed = None, True
        return decided
