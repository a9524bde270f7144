"""One connection of HTTP/1.1: a request written in one piece, its answer read as it arrives.

What comes of a request is an httpx response or an httpx exception. Where connections come from and
who uses one next is `transport`'s business. Whatever arrives without having been asked for ends the
connection.
"""

import asyncio
import select
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import cast

import httpx

from services.edge.reply import Reply
from services.edge.tls_failures import ClosedUnheard

# A body nobody reads is not taken in any further.
UNREAD_BYTES = 256 * 1024
# A request up to this size is joined into one write.
_JOINED_BYTES = 64 * 1024

Timeouts = Mapping[str, float | None]
Late = type[httpx.TimeoutException]


class Exchange:
    """A request under way: its answer, and who waits for more of it. Whoever does may come to it
    only when the connection serves the next request already.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reply = Reply()
        self.error: httpx.TransportError | None = None
        self.heard = 0.0
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def news(self, seconds: float | None, late: Late) -> None:
        """Wait until something has happened.

        Raises:
            httpx.TransportError: the request has failed; of kind `late`, where nothing arrived for
                so many seconds.
        """
        if self.error is not None:
            raise self.error
        self._waiter = self._loop.create_future()
        if seconds is not None:
            self.heard = self._loop.time()
            self._timer = self._loop.call_later(seconds, self._look, seconds, late)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if self.error is not None:
            raise self.error

    def wake(self) -> None:
        """Let the waiter look."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look(self, seconds: float, late: Late) -> None:
        """Whether it has been quiet for so long, or something arrived that was no news."""
        quiet = self._loop.time() - self.heard
        if quiet < seconds:
            self._timer = self._loop.call_later(seconds - quiet, self._look, seconds, late)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(late(f"nothing came for {seconds} s"))


class Connection(asyncio.Protocol):
    """A connection and the request under way on it.

    Args:
        released: called when a request is over, with whether another may follow, and when the
            connection has ended.
    """

    def __init__(self, released: "Callable[[Connection, bool], None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._released = released
        self._exchange: Exchange | None = None
        self._writing_paused = False
        self._reading_paused = False
        self._poll = select.poll()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.idle_since = 0.0
        self._unheard = False

    @property
    def fresh(self) -> bool:
        """Whether nothing has arrived since the last answer; not even the connection's end, of
        which the event loop may not have told yet.
        """
        return not self.closed.done() and not self._poll.poll(0)

    async def exchange(self, head: bytes, body: bytes, timeouts: Timeouts) -> httpx.Response:
        """Send a request and return its answer, whose body may be still to come.

        Raises:
            httpx.TransportError: there is none; the connection has ended.
        """
        exchange = self._exchange = Exchange(self._loop)
        reply = exchange.reply
        try:
            self._write(head, body)
            # An answer that does not wait for the whole request is an answer too.
            while self._writing_paused and not reply.begun:
                await exchange.news(timeouts.get("write"), httpx.WriteTimeout)
            while not reply.begun:
                await exchange.news(timeouts.get("read"), httpx.ReadTimeout)
        except BaseException:
            self.leave(exchange)
            raise
        return httpx.Response(
            reply.status,
            headers=reply.headers,
            stream=_Body(self, exchange, timeouts.get("read")),
            extensions={
                "http_version": b"HTTP/" + reply.version.encode(),
                "reason_phrase": reply.reason,
            },
        )

    async def piece(self, exchange: Exchange, seconds: float | None) -> bytes | None:
        """The next piece of an answer's body; None after the last.

        Raises:
            httpx.TransportError: it broke off.
        """
        reply = exchange.reply
        while not reply.parts:
            if reply.over:
                return None
            await exchange.news(seconds, httpx.ReadTimeout)
        part = reply.take()
        self._let_in(exchange)
        return part

    def leave(self, exchange: Exchange) -> None:
        """Nobody wants the rest of an answer: where some is still to come, the connection ends."""
        if self._exchange is exchange:
            self.abort()

    def abort(self) -> None:
        """End the connection now; who waits for it learns of it."""
        self._fail(httpx.ReadError("the connection was closed"))
        self._transport.abort()
        self._released(self, False)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)
        self._unheard = transport.get_extra_info("sslcontext") is not None
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer; or, with no request under way, of nothing we asked for."""
        exchange = self._exchange
        if exchange is None:
            self.abort()
            return
        exchange.heard = self._loop.time()
        self._unheard = False
        try:
            exchange.reply.feed(data)
        except httpx.RemoteProtocolError as error:
            self._fail(error)
            self.abort()
            return
        if exchange.reply.over:
            self._finish(exchange)
        elif exchange.reply.begun:
            self._let_in(exchange)
            exchange.wake()

    def eof_received(self) -> None:
        """The other side sends no more; the event loop now closes the connection."""
        if self._exchange is not None and self._exchange.reply.end():
            self._finish(self._exchange)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        self.closed.set_result(None)
        failure: httpx.TransportError
        if error is None:
            failure = httpx.RemoteProtocolError("the server closed before its answer was whole")
        elif self._writing_paused:
            failure = httpx.WriteError(str(error))
        else:
            failure = httpx.ReadError(str(error))
        alert = isinstance(error, ssl.SSLError)
        failure.__cause__ = ClosedUnheard() if self._unheard and not alert else error
        self._fail(failure)
        self._released(self, False)

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._writing_paused = False
        if self._exchange is not None:
            self._exchange.wake()

    def _write(self, head: bytes, body: bytes) -> None:
        if self._transport.is_closing():
            raise httpx.WriteError("the connection is closed")
        if len(body) < _JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def _let_in(self, exchange: Exchange) -> None:
        """Take in more, or leave it with the kernel until somebody reads."""
        full = exchange.reply.unread > UNREAD_BYTES
        if self._exchange is not exchange or full == self._reading_paused:
            return
        self._reading_paused = full
        if full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _finish(self, exchange: Exchange) -> None:
        """The answer is whole: the next request may use the connection."""
        self._exchange = None
        exchange.wake()
        if exchange.reply.reusable and not self._transport.get_write_buffer_size():
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
            self._released(self, True)
        else:
            self.abort()

    def _fail(self, error: httpx.TransportError) -> None:
        """Tell who waits for the answer under way."""
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            exchange.error = error
            exchange.wake()


class _Body(httpx.AsyncByteStream):
    """The body of an answer."""

    def __init__(self, connection: Connection, exchange: Exchange, seconds: float | None) -> None:
        self._connection = connection
        self._exchange = exchange
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        piece, exchange, seconds = self._connection.piece, self._exchange, self._seconds
        while (part := await piece(exchange, seconds)) is not None:
            yield part

    async def aclose(self) -> None:
        self._connection.leave(self._exchange)
