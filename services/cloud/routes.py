"""The cloud's HTTP surface: blocks in, reports out, both as frames of the protocol."""

import re
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from services.cloud.completion import Completion
from services.cloud.contexts import key_of
from services.cloud.metrics import CloudMetrics
from shared import tracing
from shared.access.limiter import Admission, Limiter
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
from shared.web.described import content, frames_in, header, refusals
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


class Shown(BaseModel):
    """What is served: what an edge has to fit, and whether for long."""

    protocol_version: int
    fingerprint: str
    depth: int
    span: Annotated[list[int], Field(min_length=2, max_length=2)]  # [start, stop) of layers
    compute_format: str
    modes: list[str]
    codecs: list[str]
    draining: bool


_MILLISECONDS = re.compile("[1-9][0-9]{0,8}")
_REPORTED: dict[int | str, dict[str, Any]] = {
    200: content(MEDIA_TYPE, "A report, as a frame; of a stream one after the other."),
    **refusals(404, 409, 422, 504),
}
_CLOSED = {204: {"description": "It is closed."}, **refusals(404)}
_WAITS = header(HEADER_TIMEOUT, "^[1-9][0-9]{0,8}$", "Milliseconds the sender waits for.")
_OPERATION = {Want.NOTHING: "upload", Want.SOON: "catch_up", Want.NOW: "complete"}


@dataclass(frozen=True, slots=True)
class Surface:
    """What the routes need: the completion, its metrics, the manifest to show, the largest frame
    taken, and what each caller may ask for.
    """

    completion: Completion
    metrics: CloudMetrics
    manifest: dict[str, object]
    limit: int
    limiter: Limiter = field(default_factory=Limiter)

    def routes(self) -> APIRouter:
        """Return the router."""
        router = APIRouter()
        router.add_api_route(
            PATH_MANIFEST,
            self.show_manifest,
            methods=["GET"],
            response_model=None,
            responses={200: {"model": Shown}},
        )
        for path, endpoint in self.posts().items():
            closing = path == PATH_CLOSE
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                response_model=None,
                response_class=Response,
                status_code=204 if closing else 200,
                responses=_CLOSED if closing else _REPORTED,
                openapi_extra=frames_in() if closing else frames_in(_WAITS),
            )
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
            with self._admit(request, blocks) as admission:
                report = await self.completion.accept(blocks, deadline, owner)
                admission.used = admission.asked
            return self._frame(report)

    async def stream(self, request: Request) -> Response:
        """Apply the blocks of a body and stream a report per token; a failure after the first
        report is a fault frame.
        """
        deadline = _deadline(request)
        blocks = await self._read(request)
        reports = self.completion.stream(blocks, deadline, caller_of(request).owner)
        try:
            admission = self._admit(request, blocks)
            try:
                with watched(request, deadline):
                    first = await anext(reports)
            except BaseException:
                admission.leave()
                raise
        except TandemError as error:
            self.metrics.requests.labels(operation="stream", outcome=error.code).inc()
            self.metrics.refused(error)
            raise
        return _Stream(self._frames(first, reports, admission), admission)

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
        self, first: Report, reports: AsyncGenerator[Report], admission: Admission
    ) -> AsyncGenerator[bytes]:
        # The prompt, and a token for each report; what was asked for beyond is given back.
        admission.used = admission.asked - admission.answer + 1
        try:
            with self._observed("stream"):
                async with aclosing(reports):
                    yield self._counted(encode(first))
                    async for report in reports:
                        admission.used += 1
                        yield self._counted(encode(report))
        except TandemError as error:
            yield self._counted(encode(fault_of(error)))

    def _admit(self, request: Request, blocks: Sequence[Block]) -> Admission:
        """Charge the caller for what blocks ask for: a request and the tokens to be decided, and
        the prompt of a session they open.

        Raises:
            Limited, Invalid: it has asked for too much.
        """
        caller, opening = caller_of(request), blocks[0].opening
        count = max(block.count for block in blocks)
        admission = self.limiter.admit(caller.client, caller.limits, counts=count > 0)
        new = opening is not None and key_of(caller.owner, blocks[0].session) not in (
            self.completion.store
        )
        prompt = opening.prompt_tokens if opening is not None and new else 0
        try:
            admission.charge(prompt + count, "count")
        except TandemError:
            admission.leave()
            raise
        admission.answer = count
        return admission

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


class _Stream(StreamingResponse):
    """Holds the place of its request until it has ended, even where it never began."""

    def __init__(self, frames: AsyncGenerator[bytes], admission: Admission) -> None:
        super().__init__(frames, media_type=MEDIA_TYPE)
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the frames."""
        with self._admission:
            await super().__call__(scope, receive, send)


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
