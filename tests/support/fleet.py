"""Several toy clouds with one store of logs, and an edge's way to them that moves between them.

The edge knows of one cloud; where a request goes is decided on its way.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.types import Receive, Scope, Send

from services.cloud.contexts.log_store import LogStore
from tests.support.fake_logs import FakeLogs
from tests.support.toy_cloud import ToyCloud, toy_cloud

# What befalls replicas and their store before a request: replicas forget what is in memory.
EVENTS = ("nothing", "restart 0", "restart 1", "down", "up", "lost answers", "flushed", "damaged")


@dataclass
class Left:
    """What the store still holds of sessions."""

    logs: FakeLogs

    def __len__(self) -> int:
        return sum(not kept.closed for kept in self.logs.kept.values())

    @property
    def nbytes(self) -> int:
        """Bytes of logs."""
        return sum(kept.nbytes for kept in self.logs.kept.values())


@dataclass
class Fleet:
    """Replicas `cloud0`, `cloud1`, ... as one application that goes by the host's name."""

    replicas: list[ToyCloud]
    logs: FakeLogs

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        host: str = scope["server"][0]
        await self.replicas[int(host[-1])].app(scope, receive, send)

    def forget(self) -> None:
        """Every replica loses what it has in memory."""
        for replica in self.replicas:
            replica.forget()

    @property
    def store(self) -> Any:
        """What is counted at the end."""
        return Left(self.logs)

    def suffer(self, event: str) -> None:
        """One of `EVENTS`."""
        match event.split():
            case ["restart", which]:
                self.replicas[int(which)].forget()
            case ["down"]:
                self.logs.down = True
            case ["up"]:
                self.logs.down = self.logs.after_writing = False
            case ["lost", "answers"]:
                self.logs.after_writing = True
            case ["flushed"]:
                self.logs.kept.clear()
            case ["damaged"]:
                for kept in self.logs.kept.values():
                    if kept.entries:
                        middle = len(kept.entries) // 2
                        kept.entries[middle] = kept.entries[middle][:-1] + b"?"


@asynccontextmanager
async def toy_fleet(count: int = 2, *, logs: FakeLogs | None = None) -> AsyncIterator[Fleet]:
    """Run replicas around one store."""
    shared = logs or FakeLogs()
    store: LogStore = shared
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(toy_cloud(logs=store)) for _ in range(count)]
        yield Fleet(replicas, shared)


@dataclass
class Moving(httpx.AsyncBaseTransport):
    """Sends the n-th request to replica `route[n][0]` after the event `route[n][1]`, and what
    comes after the route to where the last went; nothing of it is written in a frame.
    """

    inner: httpx.AsyncBaseTransport
    fleet: Fleet
    route: Sequence[tuple[int, str]]
    at: int = 0
    _left: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._left = list(self.route)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on its way."""
        self.at, event = self._left.pop(0) if self._left else (self.at, "up")
        self.fleet.suffer(event)
        headers = {k: v for k, v in request.headers.items() if k.lower() != "content-length"}
        url = request.url.copy_with(host=f"cloud{self.at}")
        sent = httpx.Request(request.method, url, headers=headers, content=await request.aread())
        return await self.inner.handle_async_request(sent)
