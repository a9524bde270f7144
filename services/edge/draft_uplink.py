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
from services.edge.uplink import RESENDS, RETRIES, Uplink
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
    _failed: int = 0
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
                self._hear(await self._send(blocks, "complete"))
            self._failed = 0
        except TandemError as error:
            self.drafts.unsend(min(start, *(block.start for block in blocks)))
            self._failed += 1
            self.owed = True
            passing = isinstance(error, CloudLost) and error.reason not in ("timeout", "overloaded")
            if not passing or self._failed > RETRIES:
                self.failure = error
        finally:
            self.flying -= 1
            self.changed.set()

    async def _send(self, blocks: list[Block], operation: str) -> Report:
        """Post blocks, and note what their way tells of the link."""
        began = time.perf_counter()
        report = await self._post(blocks, operation)
        ended = time.perf_counter()
        count = sum(len(b.states.payload) + len(b.states.scales) for b in blocks if b.states)
        own = report.seconds + count * self.link.bandwidth.seconds_per_byte
        self.link.succeeded(ended - began - own)
        self.link.carried(count, began, ended, report.seconds)
        return report

    async def _listen(self, blocks: list[Block]) -> None:
        with self._watched("stream"):
            async with aclosing(self.client.stream(blocks, self.traffic)) as reports:
                async for report in reports:
                    self._take(report)
                    self._hear(report)
                    self.changed.set()
                    if self._leaving:
                        return

    def _hear(self, report: Report) -> None:
        """Take in what is decided, or what the cloud misses."""
        self.room = report.pressure.allowed_nodes
        if report.need_from is not None:
            self.drafts.unsend(report.need_from)
            self._resends += 1
            self.owed = True
            if self._resends > RESENDS:
                self.failure = CloudLost("the cloud keeps asking for nodes", reason="resend")
            return
        if fresh := self.drafts.apply(report):
            self._resends = 0
            self.decided += fresh
            self.pace.came(len(fresh), time.perf_counter())
        if self.chain.opened:
            self._news.set()

    async def _leave(self) -> None:
        """As `Uplink._leave`, once what is in flight has arrived: it could open the session again.
        Tokens still being streamed nobody wants any more.
        """
        if self._deliveries:
            await asyncio.wait(self._deliveries)
        await Uplink._leave(self)

    async def _upload(self) -> None:
        while not self._leaving:
            await self._news.wait()
            self._news.clear()
            if self._leaving or not self._unsent or not self.link.usable:
                continue
            start = self.drafts.sent
            blocks = cut(self.drafts, as_ids=self.as_ids, want=Want.NOTHING, least=self.least)
            try:
                self._hear(await self._send(blocks, "upload"))
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
