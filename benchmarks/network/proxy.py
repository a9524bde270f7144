"""An asyncio TCP proxy that behaves like a network: what goes through it comes out later.

It knows bytes and connections, not HTTP. Connecting costs a round trip, as a handshake does; loss,
slow start and the headers of packets are not emulated (docs/results.md says what that leaves out).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from benchmarks.network.path import Path, Shape, paths

CHUNK = 16 * 1024
# What may wait for bandwidth before the sender is held back, as by the buffer of a router.
LONGEST_BACKLOG_SECONDS = 0.25
OPENING = 48


@dataclass(frozen=True, slots=True)
class Crossing:
    """Bytes read at once from one connection.

    Args:
        way: `up`, towards the target, or `down`.
        connection: which, counted from when the proxy began.
        sent, left, arrived: on `time.perf_counter`'s clock, when they were put on the network, had
            all left its bandwidth, and came out.
        opening: how they begin.
    """

    way: str
    connection: int
    size: int
    sent: float
    left: float
    arrived: float
    opening: str


@dataclass(slots=True)
class Proxy:
    """Listens on loopback and forwards to `host`:`port` through an emulated network.

    Used as an async context manager. `shape` may be changed while it runs: bytes on their way keep
    the arrival they were given.

    Args:
        own_seconds: what a round trip through the unshaped proxy was measured to take, subtracted
            from the delay.
        note: told whatever crosses.
    """

    host: str
    port: int
    shape: Shape = field(default_factory=Shape)
    own_seconds: float = 0.0
    note: Callable[[Crossing], None] | None = None
    up: Path = field(init=False)
    down: Path = field(init=False)
    _server: asyncio.Server | None = None
    _open: "set[asyncio.Task[None]]" = field(default_factory=set)
    _connections: int = 0

    def __post_init__(self) -> None:
        self.up, self.down = paths(self.shape, less_delay=self.own_seconds)

    @property
    def address(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: it does not listen.
        """
        if self._server is None:
            raise RuntimeError("the proxy is not listening")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def reshape(self, shape: Shape) -> None:
        """Be another network from now on; byte counts go on."""
        up, down = self.up.nbytes, self.down.nbytes
        self.shape = shape
        self.up, self.down = paths(shape, less_delay=self.own_seconds)
        self.up.nbytes, self.down.nbytes = up, down

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            # One end is gone, or the proxy is: both are closed, which is what either gets to see.
            pass
        finally:
            self._open.discard(task)
            await _close(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handshake = self.shape.rtt_ms / 1e3
        self._connections += 1
        number = self._connections
        there_reader, there_writer = await asyncio.open_connection(self.host, self.port)
        try:
            await asyncio.sleep(handshake)
            await _both(
                self._carry(reader, there_writer, "up", number),
                self._carry(there_reader, writer, "down", number),
            )
        finally:
            await _close(there_writer)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: str,
        connection: int,
    ) -> None:
        """Carry one direction of one connection until its sender ends it."""
        loop = asyncio.get_running_loop()
        queue = _Delivery(writer)
        delivering = asyncio.create_task(queue.run())
        try:
            while chunk := await reader.read(CHUNK):
                path = self.up if direction == "up" else self.down
                now = loop.time()
                arrival = path.send(len(chunk), now)
                queue.put(chunk, arrival)
                if self.note is not None:
                    left, opening = now + path.backlog(now), chunk[:OPENING].decode("latin1")
                    size = len(chunk)
                    crossing = Crossing(direction, connection, size, now, left, arrival, opening)
                    self.note(crossing)
                over = path.backlog(loop.time()) - LONGEST_BACKLOG_SECONDS
                if over > 0:
                    await asyncio.sleep(over)
                if delivering.done():  # the receiver is gone
                    await delivering
            path = self.up if direction == "up" else self.down
            queue.put(b"", path.send(0, loop.time()))
            await delivering
        finally:
            delivering.cancel()


@dataclass(slots=True)
class _Delivery:
    """Writes chunks out when they arrive, never one before another sent earlier."""

    writer: asyncio.StreamWriter
    _chunks: "deque[tuple[bytes, float]]" = field(default_factory=deque)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _latest: float = 0.0

    def put(self, chunk: bytes, arrival: float) -> None:
        """Have `chunk` delivered at `arrival`; an empty one ends the stream."""
        self._latest = max(self._latest, arrival)
        self._chunks.append((chunk, self._latest))
        self._news.set()

    async def run(self) -> None:
        """Deliver until the end of the stream."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._chunks:
                self._news.clear()
                await self._news.wait()
            chunk, arrival = self._chunks[0]
            if (wait := arrival - loop.time()) > 0:
                await asyncio.sleep(wait)
            self._chunks.popleft()
            if not chunk:
                if self.writer.can_write_eof():
                    self.writer.write_eof()
                return
            self.writer.write(chunk)
            await self.writer.drain()


async def _both(*directions: Awaitable[None]) -> None:
    """Run both directions to their end; where one fails, the other is broken off."""
    tasks = [asyncio.ensure_future(each) for each in directions]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
