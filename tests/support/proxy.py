"""A proxy between edge and cloud, on real sockets: it counts, delays, and can stand in for a cloud
in trouble.

It reads what passes with the wire's own parser, so what it says of a session is independent of what
either side says of itself.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import httpx
from starlette.types import Receive, Scope, Send

from shared.protocol.messages import Block, Report
from shared.protocol.version import PATH_BLOCKS, PATH_CLOSE, PATH_MANIFEST, PATH_STREAM
from shared.protocol.wire import decode, decode_blocks, frame_length
from tests.support.sockets import listening

LIMIT = 1 << 26


class Trouble(StrEnum):
    """What the cloud behind the proxy does instead of answering a block."""

    NONE = "none"
    SILENCE = "accepts and never answers"
    SERVER_ERROR = "answers 500"
    NONSENSE = "answers something that is no frame"
    BREAK = "breaks off within its answer"


@dataclass(slots=True)
class Exchange:
    """One request and its answer; times are monotonic seconds at the proxy's edge-side socket."""

    path: str
    up: bytes
    began: float
    down: bytes = b""
    status: int | None = None
    ended: float | None = None

    @property
    def block(self) -> Block:
        """The block that went up."""
        return decode_blocks(self.up, limit=LIMIT)[-1]

    @property
    def reports(self) -> list[Report]:
        """The reports that came down, complete ones only."""
        found, rest = [], self.down
        while len(rest) >= 8 and len(rest) >= (length := frame_length(rest, limit=LIMIT)):
            message = decode(rest[:length], limit=LIMIT)
            assert isinstance(message, Report), message
            found.append(message)
            rest = rest[length:]
        return found


@dataclass(slots=True)
class Proxy:
    """An ASGI application in front of `upstream`, the base URL of a cloud.

    `delay` seconds pass before a request goes on, and again before its answer begins. `trouble`
    strikes blocks, and looks at the manifest only if `wholly`; the first `healthy` blocks are
    spared.
    """

    upstream: str
    delay: float = 0.0
    trouble: Trouble = Trouble.NONE
    wholly: bool = False
    healthy: int = 0
    url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    _http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=60))

    def blocks(self, session: str | None = None) -> list[Exchange]:
        """Exchanges that carried a block, of one session or of all."""
        carried = [e for e in list(self.exchanges) if e.path in (PATH_BLOCKS, PATH_STREAM)]
        return [e for e in carried if session in (None, e.block.session)]

    def closed(self) -> int:
        """Sessions that were ended."""
        return sum(e.path == PATH_CLOSE and e.ended is not None for e in list(self.exchanges))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            for _ in range(2):
                await send({"type": f"{(await receive())['type']}.complete"})
            await self._http.aclose()
            return
        body = await _body(receive)
        exchange = Exchange(scope["path"], body, time.monotonic())
        self.exchanges.append(exchange)
        await asyncio.sleep(self.delay)
        if self._struck(scope["path"]):
            await self._misbehave(receive, send)
        else:
            await self._forward(scope, exchange, send)
        exchange.ended = time.monotonic()

    def _struck(self, path: str) -> bool:
        if self.trouble is Trouble.NONE or (path == PATH_MANIFEST and not self.wholly):
            return False
        return len(self.blocks()) > self.healthy

    async def _forward(self, scope: Scope, exchange: Exchange, send: Send) -> None:
        headers = [(k, v) for k, v in scope["headers"] if k not in (b"host", b"content-length")]
        url = f"{self.upstream}{exchange.path}"
        async with self._http.stream(
            scope["method"], url, headers=headers, content=exchange.up
        ) as answer:
            await asyncio.sleep(self.delay)
            exchange.status = answer.status_code
            await send(_start(answer.status_code, answer.headers.raw))
            async for chunk in answer.aiter_raw():
                exchange.down += chunk
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _misbehave(self, receive: Receive, send: Send) -> None:
        match self.trouble:
            case Trouble.SILENCE:
                while (await receive())["type"] != "http.disconnect":
                    pass
            case Trouble.SERVER_ERROR:
                await send(_start(500, [(b"content-type", b"text/plain")]))
                await send({"type": "http.response.body", "body": b"boom"})
            case Trouble.NONSENSE:
                await send(_start(200, []))
                await send({"type": "http.response.body", "body": b"TDno frame of this protocol"})
            case Trouble.BREAK:
                await send(_start(200, [(b"content-length", b"1000")]))
                await send({"type": "http.response.body", "body": b"TD", "more_body": True})
                raise ConnectionResetError("as a cloud that dies in mid-answer")


@contextmanager
def serving(proxy: Proxy) -> Iterator[Proxy]:
    """Serve the proxy; `proxy.url` is where."""
    with listening(proxy) as proxy.url:
        yield proxy


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> dict[str, object]:
    dropped = (b"transfer-encoding", b"connection", b"date", b"server")
    kept = [(k, v) for k, v in headers if k.lower() not in dropped]
    return {"type": "http.response.start", "status": status, "headers": kept}
