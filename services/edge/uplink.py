"""One session's conversation with the cloud: states go up in the background, tokens are asked for
when needed.

Uploads overlap the edge's next steps, one block at a time, so that what piles up behind a slow link
goes as one block. A need does not wait for the upload before it: its block carries everything not
sent yet, and the cloud puts blocks in order.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, Self

from services.edge.chain import Chain
from services.edge.cloud_client import CloudClient, Traffic
from services.edge.link import Link
from shared.errors import CloudLost, TandemError, Unfit
from shared.protocol.messages import Block, HiddenBlock, Report, Want
from shared.runtime.background import Background

RETRIES = 1  # a lost request is sent once more before the cloud counts as lost
RESENDS = 3  # times a cloud may ask for earlier nodes within one need


class Observer(Protocol):
    """Told of every request to the cloud, for metrics."""

    def requested(self, operation: str, outcome: str, seconds: float) -> None:
        """A request of this kind ended."""


@dataclass(slots=True)
class Spent:
    """What the cloud has cost this session so far, from its own cumulative figures."""

    requests: int = 0
    passes: int = 0
    compute_seconds: float = 0.0
    network_seconds: float = 0.0
    near_ties: int = 0
    _passes_before: int = 0
    _compute_before: float = 0.0

    def take(self, report: Report) -> None:
        """Take in a report's totals; they start again when the cloud had lost the session."""
        if report.need_from == 0:
            self._passes_before, self._compute_before = self.passes, self.compute_seconds
            return
        self.passes = max(self.passes, self._passes_before + report.passes)
        self.near_ties = max(self.near_ties, report.near_ties)
        self.compute_seconds = max(
            self.compute_seconds, self._compute_before + report.compute_seconds
        )

    def waited(self, seconds: float, cloud_seconds: float) -> None:
        """Add a wait for the cloud, of which the cloud says `cloud_seconds` were its own."""
        self.network_seconds += max(0.0, seconds - cloud_seconds)


@dataclass(slots=True)
class Uplink:
    """Used as an async context manager; leaving it ends the session on the cloud, in the
    background.
    """

    chain: Chain
    client: CloudClient
    link: Link
    observer: Observer
    background: Background
    traffic: Traffic = field(default_factory=Traffic)
    spent: Spent = field(default_factory=Spent)
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
            CloudLost, Unfit, Invalid: there is no answer to be had.
        """
        for _ in range(RESENDS + 1):
            report = await self._ask_twice()
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

        Raises as `ask`. A stream that breaks is taken up once where it broke.
        """
        left, tries, resends = count, 0, 0
        while left > 0:
            start = self.chain.sent
            try:
                ended = True
                async with aclosing(self._reports(left)) as reports:
                    async for report in reports:
                        if report.need_from is not None:
                            self.chain.unsend(report.need_from)
                            ended, resends = False, resends + 1
                            break
                        for token in self.chain.next_tokens(report):
                            self._decided(token)
                            left -= 1
                            yield token
                if ended:
                    return
                if resends > RESENDS:
                    raise CloudLost("the cloud keeps asking for the same nodes", reason="resend")
            except CloudLost as error:
                self.chain.unsend(start)
                if tries >= RETRIES or error.reason in ("timeout", "resend"):
                    raise
                tries += 1

    def _decided(self, token: int) -> None:
        """Add a token the cloud decided in a session without states: the cloud holds it already."""
        self.chain.extend((token,), None)
        self.chain.sent = self.chain.acknowledged = self.chain.end

    async def _reports(self, count: int) -> AsyncGenerator[Report]:
        block = self.chain.cut(want=Want.NOW, count=count)
        self.spent.requests += 1
        waited, cloud_seconds = 0.0, 0.0
        with self._watched("stream"):
            reports = self.client.stream([block], self.traffic)
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
                    self._take(report)
                    yield report
            finally:
                self.spent.waited(waited, cloud_seconds)
                await reports.aclose()

    async def _ask_twice(self) -> Report:
        for attempt in range(RETRIES + 1):
            start = self.chain.sent
            block = self.chain.cut(want=Want.NOW, count=1)
            self.spent.requests += 1
            began = time.perf_counter()
            try:
                report = await self._post([block], "complete")
            except CloudLost as error:
                self.spent.waited(time.perf_counter() - began, 0.0)
                self.chain.unsend(start)
                # What took the whole time-out, or is overloaded, is not helped by asking again at
                # once.
                if attempt == RETRIES or error.reason in ("timeout", "overloaded"):
                    raise
                continue
            waited = time.perf_counter() - began
            self.spent.waited(waited, report.seconds)
            self.link.succeeded(waited - report.seconds)
            return report
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _upload(self) -> None:
        while not self._leaving:
            await self._news.wait()
            self._news.clear()
            if self._leaving or self.chain.sent == self.chain.end or not self.link.usable:
                continue
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

    async def _post(self, blocks: Sequence[Block], operation: str) -> Report:
        with self._watched(operation):
            report = await self.client.post(blocks, self.traffic)
            self._take(report)
            return report

    def _take(self, report: Report) -> None:
        self.chain.opened = report.need_from != 0
        self.spent.take(report)
        self.link.succeeded()

    @contextmanager
    def _watched(self, operation: str) -> Iterator[None]:
        """Tell link and metrics how a request ended."""
        began, outcome = time.perf_counter(), "cancelled"
        try:
            yield
            outcome = "ok"
        except CloudLost as error:
            outcome = error.reason
            # What the cloud says of one session is no reason to give up the path for all of them.
            if error.of_the_path:
                self.link.failed(error.reason)
            raise
        except Unfit as error:
            outcome = error.code
            self.link.refused(error.message)
            raise
        except TandemError as error:
            outcome = error.code
            raise
        except GeneratorExit:
            outcome = "ok"
            raise
        finally:
            self.observer.requested(operation, outcome, time.perf_counter() - began)

    async def _leave(self) -> None:
        """Let an upload under way end by itself (cutting it off would cost the connection), then
        say goodbye; where the link rests, once more when it may be tried again.
        """
        if self._uploader is not None:
            await asyncio.wait({self._uploader})
        if not self.chain.offered:
            return
        for _ in range(RETRIES + 1):
            await asyncio.sleep(self.link.seconds_to_retry)
            try:
                with self._watched("close"):
                    await self.client.close(self.chain.session)
                return
            except CloudLost:
                continue  # noted on the link; a cloud that stays away forgets by its time to live
