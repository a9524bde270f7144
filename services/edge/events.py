"""Server-sent events as an answer: each is sent as it comes, silence carries comments, and whoever
hangs up ends what makes them.

Knows neither tokens nor JSON. It has three tasks for a whole answer and none for an event: a task,
a time-out and a lock for each cost more than the token in it.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.runtime.background import Background
from shared.web.leaving import gone

COMMENT = b": still working\n\n"


class EventStream(Response):
    """Sends `events`; afterwards, and where nobody listens any more, closes them.

    Args:
        events: encoded, each with its blank line.
        heartbeat_seconds: of silence, after which a comment is sent.
        background: closes the events, as every await of a request that was hung up on is cancelled.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes], heartbeat_seconds: float, background: Background
    ) -> None:
        self.status_code = 200
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self.background = None
        self._events = events
        self._heartbeat_seconds = heartbeat_seconds
        self._closing = background
        self._last = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, until the client has gone."""
        del scope
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        writing = asyncio.create_task(self._write(send))
        beside = {asyncio.create_task(gone(receive)), asyncio.create_task(self._beat(send))}
        try:
            await asyncio.wait({writing, *beside}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            for task in beside:
                task.cancel()
            self._closing.spawn(_ended(writing, *beside, closing=self._events.aclose()))

    async def _write(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            self._last = loop.time()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while True:
            silence = loop.time() - self._last
            if silence >= self._heartbeat_seconds:
                await send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                self._last, silence = loop.time(), 0.0
            await asyncio.sleep(self._heartbeat_seconds - silence)


async def _ended(
    writing: "asyncio.Task[None]", *beside: "asyncio.Task[None]", closing: Coroutine[Any, Any, None]
) -> None:
    """Cancel what is awaited, then close the events, so that both sides are released."""
    writing.cancel()
    for task in (writing, *beside):
        with suppress(asyncio.CancelledError, Exception):
            await task
    await closing
