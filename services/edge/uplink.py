"""One session's conversation with the cloud: states go up in the background, tokens are asked for
when needed.

Uploads overlap the edge's next steps, one block at a time, so that what piles up behind a slow link
goes as one block. A need does not wait for the upload before it: its block carries everything not
sent yet, and the cloud puts blocks in order.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence, Set
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

from services.edge.chain import Chain
from services.edge.cloud_client import CloudClient, Traffic
from services.edge.link import Link
from services.edge.refusals import LOCKED_OUT
from services.edge.replicas import Replica
from services.edge.round_trips import Observer, came_back, set_out
from services.edge.route import RETRIES, Route
from services.edge.spent import Spent
from shared.errors import CloudLost, Fenced, TandemError, Unfit
from shared.protocol.messages import Block, HiddenBlock, Report, Want
from shared.runtime.background import Background
from shared.tracing import Span

RESENDS = 3  # times a cloud may ask for earlier nodes within one need


@dataclass(slots=True)
class Uplink:
    """An async context manager; leaving it ends the session on the cloud, in the background.

    Args:
        resumable: the session can be taken up again, so unless `finished` it is not ended.
    """

    chain: Chain
    client: CloudClient
    link: Link
    observer: Observer
    background: Background
    route: Route
    traffic: Traffic = field(default_factory=Traffic)
    spent: Spent = field(default_factory=Spent)
    resumable: bool = False
    finished: bool = False
    closing: Callable[[], Awaitable[None]] | None = None  # awaited when the text is finished
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _uploader: "asyncio.Task[None] | None" = None
    _leaving: bool = False

    async def __aenter__(self) -> Self:
        if self.chain.opening.split > 0:
            self._uploader = self.background.spawn(self._upload())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leaving = True
        self._news.set()
        self.background.spawn(self._leave())

    def extend(self, tokens: Sequence[int], states: HiddenBlock | None) -> None:
        """Add nodes; those not taken along by a need at once are uploaded in the background."""
        self.chain.extend(tokens, states)
        self._news.set()

    async def ask(self) -> tuple[int, int]:
        """Return the cloud's token for the position after the chain's last node, as (position,
        token); or its choice at an earlier one, to which the chain has gone back (`Chain.settle`).

        Raises:
            CloudLost, Unfit, Fenced, Invalid: there is no answer to be had.
        """
        for _ in range(RESENDS + 1):
            report = await self._ask_persistently()
            if report.need_from is not None:
                self.chain.unsend(report.need_from)
            elif tokens := self.chain.next_tokens(report):
                return self.chain.settle(report, tokens[0])
            else:
                raise CloudLost("the cloud did not decide the token asked for", reason="malformed")
        raise CloudLost("the cloud keeps asking for the same nodes", reason="resend")

    async def stream(self, count: int) -> AsyncGenerator[int]:
        """Yield up to `count` tokens the cloud decides by itself; fewer where it says the text
        ends.

        Raises as `ask`. A stream that breaks, or whose replica leaves, is taken up where it broke.
        """
        left, resends, tries = count, 0, self.route.tries()
        while left > 0:
            self._go_on()
            start = self.chain.sent
            try:
                ended, leaving = True, False
                async with aclosing(self._reports(left)) as reports:
                    async for report in reports:
                        if report.need_from is not None:
                            self.chain.unsend(report.need_from)
                            ended, resends = False, resends + 1
                            break
                        for token in self.chain.next_tokens(report):
                            self._decided(token)
                            left -= 1
                            resends = 0
                            tries.answered()
                            # A replica that leaves ends its stream: also where it is the only one.
                            leaving = report.leaving
                            yield token
                if ended and not leaving and not self.route.better_elsewhere:
                    return
                if resends > RESENDS:
                    raise CloudLost("the cloud keeps asking for the same nodes", reason="resend")
            except CloudLost as error:
                self.chain.unsend(start)
                if error.reason == "resend":
                    raise
                await tries.again(error)

    def _decided(self, token: int) -> None:
        """Add a token the cloud decided in a session without states: the cloud holds it already."""
        self.chain.extend((token,), None)
        self.chain.sent = self.chain.acknowledged = self.chain.end

    async def _reports(self, count: int) -> AsyncGenerator[Report]:
        block = self.chain.cut(want=Want.NOW, count=count)
        self.spent.requests += 1
        waited, cloud_seconds = 0.0, 0.0
        at = await self.route.here()
        with self._watched("stream", at, block.revision) as span:
            reports = self.client.stream([block], self.traffic, at, span=span)
            try:
                while True:
                    began = time.perf_counter()
                    try:
                        report = await anext(reports)
                    except StopAsyncIteration:
                        return
                    finally:
                        waited += time.perf_counter() - began
                    cloud_seconds = report.seconds
                    self._take(report, at)
                    yield report
            finally:
                self.spent.waited(waited, cloud_seconds)
                await reports.aclose()

    async def _ask_persistently(self) -> Report:
        tries = self.route.tries()
        while True:
            self._go_on()
            start = self.chain.sent
            block = self.chain.cut(want=Want.NOW, count=1)
            self.spent.requests += 1
            began = time.perf_counter()
            try:
                report = await self._post([block], "complete", tries.left)
            except CloudLost as error:
                self.spent.waited(time.perf_counter() - began, 0.0)
                self.chain.unsend(start)
                await tries.again(error)
                continue
            waited = time.perf_counter() - began
            self.spent.waited(waited, report.seconds)
            self.link.succeeded(waited - report.seconds)
            tries.answered()
            return report

    async def _upload(self) -> None:
        while not self._leaving:
            await self._news.wait()
            self._news.clear()
            if self._leaving or self.chain.sent == self.chain.end or not self.link.usable:
                continue
            self._go_on()
            start = self.chain.sent
            try:
                report = await self._post([self.chain.cut(want=Want.NOTHING)], "upload")
            except TandemError:
                # Noted on the link and in the metrics; the rows go with the next block.
                self.chain.unsend(start)
                continue
            if report.need_from is not None:
                self.chain.unsend(report.need_from)
            elif self.chain.sent < self.chain.end:
                self._news.set()

    async def _post(
        self, blocks: Sequence[Block], operation: str, seconds: float | None = None
    ) -> Report:
        at = await self.route.here()
        with self._watched(operation, at, blocks[0].revision) as span:
            report = await self.client.post(blocks, self.traffic, at, seconds=seconds, span=span)
            self._take(report, at)
            return report

    def _take(self, report: Report, at: Replica) -> None:
        at.answered()
        if report.leaving:
            at.leaves()
        self.chain.hear(report)
        self.spent.take(report)
        self.link.succeeded()

    def _go_on(self) -> None:
        """Before a block is cut: go on at another replica where this one is down or leaving."""
        if self.route.better_elsewhere:
            self.route.leave()
            self.chain.move()
            self.observer.moved()

    @contextmanager
    def _watched(self, operation: str, at: Replica, revision: int) -> Iterator[Span]:
        """Tell replica, link, metrics and trace how a request of a block of `revision` ended."""
        began, outcome = time.perf_counter(), "cancelled"
        span = set_out(operation, at)
        try:
            yield span
            outcome = "ok"
        except CloudLost as error:
            outcome = error.reason
            self._lost(at, error)
            raise
        except Unfit as error:
            outcome = error.code
            at.refuses(error.message)
            if self.route.replicas.serving:
                raise CloudLost(error.message, reason=error.code) from error
            self.link.refused(error.message)
            raise
        except Fenced as error:
            outcome = error.code
            if self.chain.heard and revision == self.chain.revision:
                raise
            # Another life of this session, whose place this one takes; or this one's own past.
            if revision == self.chain.revision:
                self.chain.move(error.revision + 1)
            raise CloudLost(error.message, reason=error.code) from error
        except TandemError as error:
            outcome = error.code
            raise
        except GeneratorExit:
            outcome = "ok"
            raise
        finally:
            self.observer.requested(operation, outcome, time.perf_counter() - began)
            came_back(span, outcome)

    def _lost(self, at: Replica, error: CloudLost) -> None:
        """Note a request without a usable answer. What the cloud says of one session is no reason
        to give up the path for all of them.
        """
        if error.reason == "draining":
            at.leaves()
            self.route.turned_away = True
        if error.reason in LOCKED_OUT:
            at.refuses(error.message, locked_out=True)
            if not self.route.replicas.serving:
                self.link.refused(error.message, locked_out=True)
        if not error.of_the_path:
            return
        at.failed(error.reason)
        self.route.replicas.doubt()
        if not self.route.replicas.serving:
            self.link.failed(error.reason)

    async def _leave(self) -> None:
        """Let what is under way end by itself, which keeps its connection, and say goodbye: before
        that where the text is not finished, so that the cloud drops what nobody wants."""
        told = set() if self.finished else await self._say_goodbyes(set())
        await self._land()
        if self.finished and self.closing is not None:
            await self.closing()
        await self._say_goodbyes(told)

    async def _land(self) -> None:
        if self._uploader is not None:
            await asyncio.wait({self._uploader})

    async def _say_goodbyes(self, told: Set[Replica]) -> Set[Replica]:
        self.route.leave()
        if not self.chain.offered or (self.resumable and not self.finished):
            return told
        for at in [each for each in self.route.partings if each not in told]:
            await self._say_goodbye(at, tries=RETRIES + 1 if at is self.route.visited[-1] else 1)
        return {*self.route.visited}

    async def _say_goodbye(self, at: Replica, *, tries: int) -> None:
        for _ in range(tries):
            await asyncio.sleep(at.breaker.seconds_to_retry if tries > 1 else 0)
            # A failure is noted on the link; a cloud that stays away forgets by its time to live.
            chain = self.chain
            with suppress(CloudLost), self._watched("close", at, chain.revision) as span:
                await self.client.close(chain.session, chain.revision, at, span=span)
                return
