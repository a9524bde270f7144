"""HTTP between two applications of one process over a network of arithmetic: delay, bandwidth per
direction, and a round trip for every new connection.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.types import ASGIApp, Message

# Bytes of a request's or an answer's head, roughly as httpx and uvicorn send them.
HEAD_BYTES = 200


@dataclass(slots=True)
class Direction:
    """One way: bytes go after one another, and then take the delay."""

    seconds: float
    bytes_per_second: float
    _free_at: float = 0.0

    def arrival(self, now: float, count: int) -> float:
        """When `count` bytes given now have arrived."""
        self._free_at = max(now, self._free_at) + count / self.bytes_per_second
        return self._free_at + self.seconds


@dataclass(slots=True)
class Network(httpx.AsyncBaseTransport):
    """Carries requests to `app`.

    Args:
        rtt_ms: there and back.
        mbit: per second, each way.
        note: told (sent, arrived, path, bytes) of every request, in virtual seconds.
    """

    app: ASGIApp
    rtt_ms: float
    mbit: float
    note: Callable[[float, float, str, int], None]
    _connections: int = 0
    _busy: int = 0
    _up: Direction = field(init=False)
    _down: Direction = field(init=False)

    def __post_init__(self) -> None:
        self._up, self._down = (Direction(self.rtt_ms / 2e3, self.mbit * 125_000) for _ in range(2))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request there and its answer back."""
        loop = asyncio.get_running_loop()
        body, sent = await request.aread(), loop.time()
        self._busy += 1
        if self._busy > self._connections:
            self._connections += 1
            await asyncio.sleep(self.rtt_ms / 1e3)
        await _until(self._up.arrival(loop.time(), len(body) + HEAD_BYTES))
        self.note(sent, loop.time(), request.url.path, len(body))
        answer = _Answer(self._down)
        task = asyncio.ensure_future(answer.call(self.app, request, body))
        await answer.started.wait()
        if task.done() and task.exception() is not None:
            task.result()
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Stream(answer, task, self._release)
        )

    def _release(self) -> None:
        self._busy -= 1


async def _until(when: float) -> None:
    await asyncio.sleep(max(0.0, when - asyncio.get_running_loop().time()))


@dataclass(slots=True)
class _Answer:
    """An application's answer as it comes over the network."""

    down: Direction
    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    parts: "asyncio.Queue[tuple[float, bytes] | None]" = field(default_factory=asyncio.Queue)

    async def call(self, app: ASGIApp, request: httpx.Request, body: bytes) -> None:
        url = request.url
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
            "method": request.method, "scheme": "http", "path": url.path,
            "raw_path": url.raw_path, "query_string": url.query, "server": ("cloud", 80),
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("edge", 1), "root_path": "",
        }  # fmt: skip
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if given:
                return given.pop()
            await self.gone.wait()
            return {"type": "http.disconnect"}

        try:
            await app(scope, receive, self._send)
        finally:
            self.parts.put_nowait(None)
            self.started.set()

    async def _send(self, message: Message) -> None:
        now = asyncio.get_running_loop().time()
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", []))
            self.parts.put_nowait((self.down.arrival(now, HEAD_BYTES), b""))
            self.started.set()
        elif body := message.get("body", b""):
            self.parts.put_nowait((self.down.arrival(now, len(body)), body))


@dataclass(slots=True)
class _Stream(httpx.AsyncByteStream):
    answer: _Answer
    task: "asyncio.Future[None]"
    release: Callable[[], None]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (part := await self.answer.parts.get()) is not None:
            await _until(part[0])
            yield part[1]

    async def aclose(self) -> None:
        self.answer.gone.set()
        self.task.cancel()
        self.release()
