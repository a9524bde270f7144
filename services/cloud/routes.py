"""The cloud's HTTP surface: blocks in, reports out, both as frames of the protocol."""

import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from services.cloud.completion import Completion
from services.cloud.metrics import CloudMetrics
from shared import tracing
from shared.errors import Invalid, Malformed, TandemError
from shared.protocol.messages import Block, Close, Report, Want
from shared.protocol.version import (
    HEADER_TIMEOUT,
    MEDIA_TYPE,
    PATH_BLOCKS,
    PATH_CLOSE,
    PATH_MANIFEST,
    PATH_STREAM,
)
from shared.protocol.wire import decode, decode_blocks, encode
from shared.runtime.deadline import Deadline
from shared.web import observe
from shared.web.access import CALLER, Rules, caller_of
from shared.web.direct import Endpoint
from shared.web.errors import fault_of
from shared.web.leaving import watched

# Who may ask for what: whatever has no line here is denied.
RULES: Rules = {
    **observe.RULES,
    ("GET", PATH_MANIFEST): "sessions",
    ("POST", PATH_BLOCKS): "sessions",
    ("POST", PATH_STREAM): "sessions",
    ("POST", PATH_CLOSE): "sessions",
    # FastAPI's own.
    ("GET", "/openapi.json"): CALLER,
}

_MILLISECONDS = re.compile("[1-9][0-9]{0,8}")
_OPERATION = {Want.NOTHING: "upload", Want.SOON: "catch_up", Want.NOW: "complete"}


@dataclass(frozen=True, slots=True)
class Surface:
    """What the routes need: the completion, its metrics, the manifest to show and the largest
    frame taken.
    """

    completion: Completion
    metrics: CloudMetrics
    manifest: dict[str, object]
    limit: int

    def routes(self) -> APIRouter:
        """Return the router."""
        router = APIRouter()
        router.add_api_route(PATH_MANIFEST, self.show_manifest, methods=["GET"])
        for path, endpoint in self.posts().items():
            router.add_api_route(path, endpoint, methods=["POST"])
        return router

    def posts(self) -> dict[str, Endpoint]:
        """The endpoints that take messages, by path."""
        return {PATH_BLOCKS: self.take_block, PATH_STREAM: self.stream, PATH_CLOSE: self.close}

    async def show_manifest(self) -> Response:
        """What is served here, for an edge to check itself against, and whether for long."""
        return JSONResponse({**self.manifest, "draining": self.completion.lifecycle.draining})

    async def take_block(self, request: Request) -> Response:
        """Apply the blocks of a body and answer with the newest report."""
        deadline = _deadline(request)
        blocks = await self._read(request)
        owner = caller_of(request).owner
        with self._observed(_OPERATION[blocks[-1].want]), watched(request, deadline):
            return self._frame(await self.completion.accept(blocks, deadline, owner))

    async def stream(self, request: Request) -> Response:
        """Apply the blocks of a body and stream a report per token; a failure after the first
        report is a fault frame.
        """
        deadline = _deadline(request)
        blocks = await self._read(request)
        reports = self.completion.stream(blocks, deadline, caller_of(request).owner)
        try:
            with watched(request, deadline):
                first = await anext(reports)
        except TandemError as error:
            self.metrics.requests.labels(operation="stream", outcome=error.code).inc()
            self.metrics.refused(error)
            raise
        return StreamingResponse(self._frames(first, reports), media_type=MEDIA_TYPE)

    async def close(self, request: Request) -> Response:
        """Forget a session; closing an unknown one is no error."""
        with self._observed("close"):
            message = decode(await request.body(), limit=self.limit)
            if not isinstance(message, Close):
                raise Malformed(f"a close was expected, not a {type(message).__name__.lower()}")
            owner = caller_of(request).owner
            await self.completion.close(message.session, message.revision, owner)
            return Response(status_code=204)

    async def _read(self, request: Request) -> list[Block]:
        body = await request.body()
        try:
            blocks = decode_blocks(body, limit=self.limit)
        except TandemError as error:
            self.metrics.requests.labels(operation="unreadable", outcome=error.code).inc()
            raise
        coded = next((block.states for block in blocks if block.states), None)
        self.metrics.uplink.labels(codec=coded.codec if coded else "ids").inc(len(body))
        return blocks

    async def _frames(
        self, first: Report, reports: AsyncGenerator[Report]
    ) -> AsyncGenerator[bytes]:
        try:
            with self._observed("stream"):
                async with aclosing(reports):
                    yield self._counted(encode(first))
                    async for report in reports:
                        yield self._counted(encode(report))
        except TandemError as error:
            yield self._counted(encode(fault_of(error)))

    def _frame(self, report: Report) -> Response:
        return Response(self._counted(encode(report)), media_type=MEDIA_TYPE)

    def _counted(self, frame: bytes) -> bytes:
        self.metrics.downlink.inc(len(frame))
        return frame

    @contextmanager
    def _observed(self, operation: str) -> Iterator[None]:
        began = time.perf_counter()
        outcome = "cancelled"
        span = tracing.current()
        span.set({"tandem.operation": operation})
        self.metrics.running.inc()
        try:
            yield
            outcome = "ok"
        except TandemError as error:
            outcome = error.code
            self.metrics.refused(error)
            span.fail(error.code)
            raise
        except Exception:
            outcome = "internal"
            raise
        finally:
            self.metrics.running.dec()
            self.metrics.requests.labels(operation=operation, outcome=outcome).inc()
            self.metrics.duration.labels(operation=operation).observe(time.perf_counter() - began)


def _deadline(request: Request) -> Deadline:
    """When the sender stops waiting, by its own word."""
    given = request.headers.get(HEADER_TIMEOUT)
    if given is None:
        return Deadline()
    if not _MILLISECONDS.fullmatch(given):
        raise Invalid(
            f"{HEADER_TIMEOUT} is no whole number of milliseconds from 1 to 999999999",
            field=HEADER_TIMEOUT,
        )
    return Deadline.after(int(given) / 1000)
