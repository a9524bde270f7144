"""The fault proxy: TCP between an edge and its replicas, one listening port for each.

It passes on the very bytes it receives, and reads a copy of every frame (`moments`). Before a frame
goes on, and after, a hook is called in the proxy's own thread; nothing moves until it returns, so
what the hook kills is dead by then. What the hook returns happens to that frame (`toxics`).
`tests.support.proxy` stands on HTTP and knows no connections; this one is about them.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.protocol.version import PATH_BLOCKS, PATH_CLOSE, PATH_STREAM
from tests.faults.http1 import Piece, Request, pieces, read_request
from tests.faults.lines import BROKEN, Broken, Line, Port, connect, end, unless_gone
from tests.faults.moments import Frames, Ledger, Seen
from tests.faults.toxics import Copy, Cut, Deed, Shape, Silence, When
from tests.support.apps import PATIENCE

T = TypeVar("T")
Hook = Callable[[Seen], Deed | None]
Tamper = Callable[[str, bool, bytes], bytes]


@dataclass(slots=True)
class Stray:
    """A copy of a request that was delivered besides: what it was answered with."""

    when: When
    replica: int
    status: int | None = None
    body: bytes = b""
    over: bool = False  # it has its answer, or gets none


class FaultProxy:
    """Ports in front of `upstreams`, TCP ports of this machine; used as a context manager.

    `hook` is told what is seen and may return a deed; `tamper(path, up, body)` may return other
    bytes of the same length for a request's body, or for a piece of an answer's.
    """

    def __init__(self, upstreams: Sequence[int]) -> None:
        self.ports = [Port(number, upstream) for number, upstream in enumerate(upstreams)]
        self.hook: Hook | None = None
        self.tamper: Tamper | None = None
        self.ledger = Ledger()
        self.strays: list[Stray] = []
        self._late: list[tuple[str, int, int, Request]] = []  # session, token, replica
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def urls(self) -> str:
        """The edge's `cloud_url`."""
        return ",".join(port.url for port in self.ports)

    def call(self, work: Callable[[], T]) -> T:
        """Do something in the proxy's thread, between two frames."""

        async def run() -> T:
            return work()

        return self._run(run())

    def listen(self, number: int) -> None:
        """Accept connections for a replica (from any thread but the proxy's own)."""
        self._run(self._listen(self.ports[number]))

    def shut(self, number: int) -> None:
        """Refuse connections, as the port of a dead process does (in the proxy's thread)."""
        port = self.ports[number]
        if port.listener is not None:
            self._loop.remove_reader(port.listener)
            port.listener.close()
            port.listener = None
        for line in list(port.lines):
            line.end(reset=True)

    def heal(self) -> None:
        """Take every toxic away; connections that were parted end (from any other thread)."""
        self.hook = self.tamper = None
        self._late.clear()
        for port in self.ports:
            self.call(lambda port=port: self._join(port))  # type: ignore[misc]
            port.shape = Shape()

    def forget(self) -> None:
        """Begin a new ledger."""
        self.ledger, self.strays = Ledger(), []

    def _join(self, port: Port) -> None:
        if port.parted:
            port.parted = False
            for line in list(port.lines):
                line.end(reset=True)

    @contextmanager
    def serving(self) -> Iterator["FaultProxy"]:
        """Listen on every port until the end of the block."""
        self._thread.start()
        try:
            for port in self.ports:
                self.listen(port.number)
            yield self
        finally:
            self._run(self._stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _listen(self, port: Port) -> None:
        """Not by `asyncio.Server`, which loses a connection accepted in the moment it closes."""
        listener = port.listener = socket.create_server(("127.0.0.1", port.port))
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, port, listener)

    def _accept(self, port: Port, listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            self._spawn(self._welcome(port, connection))

    async def _welcome(self, port: Port, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 20)
        await self._serve(port, Line(reader, writer))

    async def _stop(self) -> None:
        for port in self.ports:
            self.shut(port.number)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, port: Port, line: Line) -> None:
        """Serve one connection of the edge until either side ends it."""
        port.lines.add(line)
        reset = True
        coming = asyncio.create_task(read_request(line.reader))
        try:
            while (request := await coming) is not None:
                # What the edge sends next, or that it has hung up, is seen while it is answered.
                coming = asyncio.create_task(read_request(line.reader))
                await unless_gone(self._exchange(port, line, request), coming)
            reset = False
        except Broken as broken:
            reset = broken.reset
        except BROKEN:
            pass
        finally:
            coming.cancel()
            port.lines.discard(line)
            line.end(reset=reset)

    async def _exchange(self, port: Port, line: Line, request: Request) -> None:
        await self._while_parted(port)
        body = request.body
        if self.tamper is not None:
            body = self.tamper(request.path, True, body)
        seen = self._going_up(port.number, request)
        deed = self._told(seen)
        copy = deed if isinstance(deed, Copy) else None
        if copy is not None and copy.when is When.LATE:
            assert seen is not None
            to = self._to(copy, port.number)
            self._late.append((seen.session, seen.token + copy.tokens, to, request))
        elif copy is not None and copy.when is When.BEFORE:
            await self._deliver(copy, port.number, request)
        raw = request.head + body
        if line.upstream is None or line.upstream[0].at_eof():
            line.upstream = await connect(port.upstream)
        writer = line.upstream[1]
        await self._send(port, writer, raw, deed)
        doubled = None
        if copy is not None and copy.when is When.WITH:
            doubled = asyncio.create_task(self._deliver(copy, port.number, request))
        await self._answer(port, line, request.path)
        if doubled is not None:
            await doubled
        if copy is not None and copy.when is When.AFTER:
            await self._deliver(copy, port.number, request)

    async def _answer(self, port: Port, line: Line, path: str) -> None:
        """Pass an answer on, piece by piece."""
        assert line.upstream is not None
        frames = Frames()
        async for piece in pieces(line.upstream[0]):
            await self._while_parted(port)
            raw = piece.raw
            if self.tamper is not None and piece.content:
                raw = _with_content(piece, self.tamper(path, False, piece.content))
            found = [self.ledger.coming_down(port.number, r) for r in frames.feed(piece.content)]
            news = [seen for seen in found if seen is not None]
            deeds = [deed for seen in news if (deed := self._told(seen)) is not None]
            await self._send(port, line.writer, raw, deeds[0] if deeds else None)
            for seen in news:
                deed = self._told(self.ledger.heard(seen))
                if isinstance(deed, Cut):
                    raise Broken(deed.reset)
                self._deliver_late(seen)

    def _going_up(self, replica: int, request: Request) -> Seen | None:
        if request.path in (PATH_BLOCKS, PATH_STREAM):
            return self.ledger.going_up(replica, request.body)
        if request.path == PATH_CLOSE:
            return self.ledger.closing(replica, request.body)
        return None

    def _told(self, seen: Seen | None) -> Deed | None:
        return self.hook(seen) if self.hook is not None and seen is not None else None

    async def _send(
        self, port: Port, writer: asyncio.StreamWriter, data: bytes, deed: Deed | None
    ) -> None:
        """Send bytes in the port's shape, unless the deed keeps them back."""
        await self._while_parted(port)
        if isinstance(deed, Silence):
            await asyncio.Event().wait()  # until the edge has hung up, which ends this exchange
        if isinstance(deed, Cut):
            data = data[: int(len(data) * deed.share)]
        shape = port.shape
        step = shape.slice or max(1, len(data))
        await asyncio.sleep(shape.wait(len(data)))
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            if shape.slice:
                await asyncio.sleep(0)  # a write of its own
        if isinstance(deed, Cut):
            raise Broken(deed.reset)

    async def _while_parted(self, port: Port) -> None:
        if port.parted:
            await asyncio.Event().wait()  # until the edge has hung up, or the port is healed

    async def _deliver(self, copy: Copy, replica: int, request: Request) -> None:
        """Deliver a request besides, and note its answer."""
        to = self._to(copy, replica)
        stray = Stray(copy.when, to)
        self.strays.append(stray)
        try:
            with suppress(*BROKEN):
                await self._exchange_stray(stray, request)
        finally:
            stray.over = True

    async def _exchange_stray(self, stray: Stray, request: Request) -> None:
        reader, writer = await connect(self.ports[stray.replica].upstream)
        try:
            writer.write(request.head + request.body)
            async for piece in pieces(reader):
                stray.status = piece.status
                stray.body += piece.content
        finally:
            end(writer, reset=False)

    def _to(self, copy: Copy, replica: int) -> int:
        return (replica + 1) % len(self.ports) if copy.another else replica

    def _deliver_late(self, seen: Seen) -> None:
        """Deliver what was kept for this token of its session."""
        due = [late for late in self._late if late[0] == seen.session and late[1] <= seen.token]
        for late in due:
            self._late.remove(late)
            _, _, replica, request = late
            self._spawn(self._deliver(Copy(When.LATE), replica, request))


def _with_content(piece: Piece, content: bytes) -> bytes:
    assert len(content) == len(piece.content), "tampering changes no length"
    at = piece.raw.rindex(piece.content)
    return piece.raw[:at] + content + piece.raw[at + len(content) :]
