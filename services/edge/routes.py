"""The edge's public HTTP surface: `POST /generate`, whole or as server-sent events, and the page
at `/`.
"""

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response

from services.edge.admission import admission_of
from services.edge.answer import Answer
from services.edge.answering import Answering
from services.edge.events import EventStream
from services.edge.resuming import HEADER_SESSION, conversation_of
from services.edge.schemas import Event, Generated, GenerateRequest, TokenView
from shared.errors import TandemError
from shared.runtime.background import Background
from shared.web import observe
from shared.web.access import CALLER, PUBLIC, Rules, caller_of, certificate_of
from shared.web.described import events, header, refusals
from shared.web.errors import error_body
from shared.web.leaving import cancelled_when_gone
from shared.web.strict_json import StrictRoute

_log = logging.getLogger(__name__)

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Generated,
        "description": "The text; with `stream`, an event for each of its tokens.",
        # A stream that breaks ends with a refusal.
        "content": events(Event),
    },
    **refusals(415, 422, 504),
}
_SESSION = header(HEADER_SESSION, "^[!-~]{1,128}$", "The caller's name for its conversation.")

PAGE = Path(__file__).parent / "static" / "index.html"

# Who may ask for what: whatever has no line here is denied.
RULES: Rules = {
    **observe.RULES,
    ("GET", "/"): PUBLIC,
    ("POST", "/generate"): "generate",
    # FastAPI's own.
    ("GET", "/docs"): CALLER,
    ("GET", "/docs/oauth2-redirect"): CALLER,
    ("GET", "/redoc"): CALLER,
    ("GET", "/openapi.json"): CALLER,
}


@dataclass(frozen=True, slots=True)
class Surface:
    """What the routes need: who answers, and the silence after which a stream carries a comment."""

    answering: Answering
    heartbeat_seconds: float
    background: Background = field(default_factory=Background)

    def routes(self) -> APIRouter:
        """Return the router."""
        router = APIRouter(route_class=StrictRoute)
        router.add_api_route(
            "/generate",
            self.generate,
            methods=["POST"],
            response_model=None,
            responses=_ANSWERS,
            openapi_extra={"parameters": [_SESSION]},
        )
        router.add_api_route("/", self.page, methods=["GET"], include_in_schema=False)
        return router

    async def page(self) -> Response:
        """One static page that streams a generation and colours each token by its source."""
        return FileResponse(PAGE, media_type="text/html")

    async def generate(self, body: GenerateRequest, request: Request) -> Response:
        """Answer a prompt; with `stream`, as server-sent events of text-generation-inference's
        shape.
        """
        conversation = conversation_of(
            request.headers.get(HEADER_SESSION),
            request.headers.get("authorization"),
            certificate_of(request.scope),
        )
        # The body has been read: what comes is that the client has gone.
        async with cancelled_when_gone(request.receive):
            caller, admission = caller_of(request), admission_of(request)
            answer = await self.answering.answer(body, caller, conversation, admission)
            if not body.stream:
                return await self._whole(body, answer)
            tokens = answer.tokens()
            first = await anext(tokens)  # what fails before the first token is an HTTP status
        events = self._events(first, tokens, answer, with_details=body.parameters.details)
        return EventStream(events, self.heartbeat_seconds, self.background)

    async def _whole(self, body: GenerateRequest, answer: Answer) -> Response:
        async with aclosing(answer.tokens()) as tokens:
            async for _ in tokens:
                pass
        result: dict[str, object] = {"generated_text": answer.text}
        if body.parameters.details:
            result["details"] = answer.details().model_dump(mode="json")
        return JSONResponse(result)

    async def _events(
        self,
        first: TokenView,
        tokens: AsyncGenerator[TokenView],
        answer: Answer,
        *,
        with_details: bool,
    ) -> AsyncGenerator[bytes]:
        """An event per token; the last one also carries the text and, if asked for, the details."""
        async with aclosing(tokens):
            yield _event(first, answer, with_details=with_details)
            try:
                async for token in tokens:
                    yield _event(token, answer, with_details=with_details)
            except TandemError as error:
                yield _sse(error_body(error))
            except Exception:
                # The status is sent; whoever reads the stream must still learn that it broke.
                _log.exception("a stream broke")
                yield _sse({"error": "internal error", "error_type": "internal"})


def _event(token: TokenView, answer: Answer, *, with_details: bool) -> bytes:
    last = answer.finished
    details = answer.details().model_dump(mode="json") if last and with_details else None
    text = answer.text if last else None
    return _sse({"token": token.model_dump(), "generated_text": text, "details": details})


# Line ends to some readers of a stream, though not to JSON.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


def _sse(body: object) -> bytes:
    text = json.dumps(body, ensure_ascii=False)
    if not text.isascii():
        text = text.translate(_LINE_ENDS)
    return b"data: " + text.encode() + b"\n\n"
