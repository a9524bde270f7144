"""The span of a request, from its first byte to the last of its answer; pure ASGI."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import tracing
from shared.runtime.lifecycle import LAST_SECONDS, Lifecycle
from shared.tracing import Attribute, Tracer

# Nginx's word for: whoever asked has gone.
_GONE = 499


class Traced:
    """Traces every POST to one of `paths`: within `Access`, so that strangers can ask for none.

    Args:
        attributes: told of every one of them.
    """

    def __init__(
        self,
        app: ASGIApp,
        tracer: Tracer,
        paths: Collection[str],
        attributes: Mapping[str, Attribute],
    ) -> None:
        self._app = app
        self._tracer = tracer
        self._paths = frozenset(paths)
        self._attributes = attributes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within its span."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        span = self._tracer.serve(f"POST {path}", scope["headers"])
        span.set({"http.request.method": "POST", "http.route": path, **self._attributes})

        async def send_and_tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                status: int = message["status"]
                span.set({"http.response.status_code": status})
                if status >= 400 and status != _GONE:
                    span.fail(f"http_{status}")  # where nobody has told a better word
            await send(message)

        with tracing.within(span):
            try:
                await self._app(scope, receive, send_and_tell)
            except Exception:
                span.fail("internal")
                raise
            finally:
                span.end()


@asynccontextmanager
async def flushed(tracer: Tracer | None, lifecycle: Lifecycle) -> AsyncIterator[None]:
    """On the way out, send what spans there are, within what is left of the grace time."""
    try:
        yield
    finally:
        if tracer is not None:
            await asyncio.to_thread(tracer.close, lifecycle.seconds_left + LAST_SECONDS)
