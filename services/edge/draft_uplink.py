"""A verified session's conversation with the cloud: drafts go up as they are run, and passes are
asked for without waiting for the one before.

What is asked and not yet answered is in flight; answers come in any order, and each says all that
is decided. Nothing waits here: who makes the text watches `changed`.
"""

import asyncio
import time
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Self

from services.edge.draft_tree import Decided
from services.edge.drafts import Drafts
from services.edge.letters import cut
from services.edge.paces import Pace
from services.edge.route import Tries
from services.edge.uplink import RESENDS, Uplink
from shared.errors import CloudLost, TandemError
from shared.protocol.messages import Block, Report, Want


@dataclass(slots=True)
class DraftUplink(Uplink):
    """`decided` holds the tokens not yet taken, `flying` counts requests for passes under way,
    `owed` says that one has to be made again, `failure` that the cloud is lost.

    Args:
        as_ids: the cloud can make the states of a prompt itself.
        least: the chance a draft must have to be worth its way.
    """

    as_ids: bool = False
    least: float = 0.0
    pace: Pace = field(default_factory=Pace)
    decided: "deque[Decided]" = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    flying: int = 0
    owed: bool = False
    failure: TandemError | None = None
    room: int = 0
    _deliveries: "set[asyncio.Task[None]]" = field(default_factory=set)
    _tries: "Tries | None" = None
    _failed_up_to: int = 0
    _missed_up_to: int = 0
    _resends: int = 0

    @property
    def drafts(self) -> Drafts:
        """The session's prefix and drafts."""
        assert isinstance(self.chain, Drafts)
        return self.chain

    async def __aenter__(self) -> Self:
        self._uploader = self.background.spawn(self._upload())
        return self

    def offer(self) -> None:
        """Let what was run go up in the background."""
        self._news.set()

    def ask_for(self, ahead: int, *, announce: bool) -> None:
        """Ask for a pass over everything sent so far and now, and for `ahead` tokens that the cloud
        may go on by itself: where it has not been announced a draft of what it decided.
        """
        self._go_on()
        start, drafts = self.drafts.sent, self.drafts
        blocks = cut(
            drafts,
            as_ids=self.as_ids,
            want=Want.NOW,
            count=1 + ahead,
            announce=announce,
            least=self.least,
        )
        self.owed = False
        self.flying += 1
        self.spent.requests += 1
        delivery = self.background.spawn(self._deliver(blocks, start, ahead))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    def again(self) -> None:
        """Send what may be missing in the cloud once more, and ask: everything was answered and
        nothing decided.
        """
        self._resends += 1
        if self._resends > RESENDS:
            lost = CloudLost("the cloud keeps asking for the same nodes", reason="resend")
            self.failure = lost
            return
        self.drafts.unsend(self.drafts.end - 1 if self._resends == 1 else 0)
        self.owed = True

    async def _deliver(self, blocks: list[Block], start: int, ahead: int) -> None:
        try:
            if ahead:
                await self._listen(blocks)
            else:
                self._hear(await self._send(blocks, "complete"), blocks)
            self._tries = None
        except TandemError as error:
            self.drafts.unsend(min(start, *(block.start for block in blocks)))
            await self._try_again(error, blocks[0].sequence)
            self.owed = True
        finally:
            self.flying -= 1
            self.changed.set()

    async def _try_again(self, error: TandemError, sequence: int) -> None:
        """Return when what failed is to be sent again; where it is not, with a `failure`. What was
        under way together fails together, and counts once.
        """
        if not isinstance(error, CloudLost) or self._leaving:
            self.failure = error
            return
        if sequence <= self._failed_up_to:
            return
        self._failed_up_to = self.drafts.sequence
        self._tries = self._tries or self.route.tries()
        try:
            await self._tries.again(error)
        except CloudLost as lost:
            self.failure = lost

    async def _send(self, blocks: list[Block], operation: str) -> Report:
        """Post blocks, and note what their way tells of the link."""
        began = time.perf_counter()
        left = self._tries.left if self._tries is not None else None
        report = await self._post(blocks, operation, left)
        ended = time.perf_counter()
        count = sum(len(b.states.payload) + len(b.states.scales) for b in blocks if b.states)
        own = report.seconds + count * self.link.bandwidth.seconds_per_byte
        self.link.succeeded(ended - began - own)
        self.link.carried(count, began, ended, report.seconds)
        return report

    async def _listen(self, blocks: list[Block]) -> None:
        at = await self.route.here()
        with self._watched("stream", at, blocks[0].revision) as span:
            sent = self.client.stream(blocks, self.traffic, at, span=span)
            async with aclosing(sent) as reports:
                async for report in reports:
                    self._take(report, at)
                    self._hear(report, blocks)
                    self.changed.set()
                    if self._leaving:
                        return

    def _hear(self, report: Report, blocks: list[Block]) -> None:
        """Take in what is decided, or what the cloud misses."""
        self.room = report.pressure.allowed_nodes
        if report.need_from is not None:
            self._send_again(report.need_from, blocks[0].sequence)
            return
        if fresh := self.drafts.apply(report):
            self._resends = 0
            self.decided += fresh
            self.pace.came(len(fresh), time.perf_counter())
        if self.chain.opened:
            self._news.set()

    def _send_again(self, position: int, sequence: int) -> None:
        """The cloud misses what is decided from a position on. What has not been run yet goes as
        soon as it has, or as ids with all before it. What was under way together misses the same,
        and counts once.
        """
        drafts = self.drafts
        here = not drafts.travels or position < drafts.states.end
        drafts.unsend(position if here or not self.as_ids else 0)
        self.owed = True
        if here and sequence > self._missed_up_to:
            self._missed_up_to = drafts.sequence
            self._resends += 1
        if self._resends > RESENDS:
            self.failure = CloudLost("the cloud keeps asking for nodes", reason="resend")

    async def _land(self) -> None:
        """As `Uplink._land`: what is in flight could open the session again where the goodbye has
        been forgotten. Tokens still being streamed nobody wants any more.
        """
        if self._deliveries:
            await asyncio.wait(self._deliveries)
        await Uplink._land(self)

    async def _upload(self) -> None:
        while not self._leaving:
            await self._news.wait()
            self._news.clear()
            if self._leaving or not self._unsent or not self.link.usable:
                continue
            self._go_on()
            start = self.drafts.sent
            blocks = cut(self.drafts, as_ids=self.as_ids, want=Want.NOTHING, least=self.least)
            try:
                self._hear(await self._send(blocks, "upload"), blocks)
            except TandemError:
                # Noted on the link and in the metrics; the rows go with the next blocks.
                self.drafts.unsend(min(start, *(block.start for block in blocks)))
                continue
            self.changed.set()

    @property
    def _unsent(self) -> bool:
        """Whether there is anything the cloud could be sent; not the opening, which asks."""
        drafts = self.drafts
        fresh = drafts.sent < drafts.states.end or bool(drafts.unsent(self.least))
        return drafts.offered and fresh
