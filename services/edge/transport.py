"""A transport of HTTP/1.1 under httpx, for one event loop: connections kept alive, by origin.

A drop-in for httpx's own where that does more than a cloud is asked for: requests of known length,
answers whole or streamed, limits and time-outs as httpx means them, TLS by a context. A request is
never sent twice: whether it may be is known to who sent it. No proxies, no HTTP/2.
"""

import asyncio
import re
import ssl
from collections.abc import Callable
from functools import partial
from typing import cast

import httpx

from services.edge.connection import Connection, Timeouts

_PORTS = {"http": 80, "https": 443}
# What a method or the name of a header is made of, and what neither the value of one nor a target
# may hold (RFC 9110, 5.5 and 5.6.2).
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET = re.compile(rb"[\x21-\x7e]+")

# Scheme, address, port, and the name TLS asks for.
Origin = tuple[str, str, int, str]


class PooledTransport(httpx.AsyncBaseTransport):
    """Sends requests over connections it keeps.

    Args:
        limits: of connections, to all origins together.
        tls: gives the context of a new connection for https; without it, https is refused.
    """

    def __init__(
        self, limits: httpx.Limits, tls: Callable[[], ssl.SSLContext] | None = None
    ) -> None:
        self._most = limits.max_connections or 2**31
        idle = limits.max_keepalive_connections
        self._most_idle = self._most if idle is None else idle
        self._idle_seconds = limits.keepalive_expiry
        self._tls = tls
        # As many requests may be under way as there may be connections.
        self._slots = asyncio.Semaphore(self._most)
        self._open: dict[Connection, Origin] = {}
        self._busy: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}  # each the longest idle first
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over an idle connection or a new one: to the extension `address`, where
        one other than the URL's host is to be connected to.

        Raises:
            httpx.TransportError: as httpx's own transport does; `httpx.LocalProtocolError` for a
                request that cannot be sent as it is.
        """
        timeouts: Timeouts = request.extensions.get("timeout", {})
        stream = cast(httpx.AsyncByteStream, request.stream)
        body = b"".join([part async for part in stream])
        head = head_of(request, len(body))
        connection = await self._take(self._origin(request), timeouts)
        return await connection.exchange(head, body, timeouts)

    def cut_off(self, address: str, url: httpx.URL) -> None:
        """End every connection to an address; requests under way there fail."""
        port = url.port or _PORTS[url.scheme]
        for connection, (_, at, its_port, _) in list(self._open.items()):
            if (at, its_port) == (address, port):
                connection.abort()

    async def aclose(self) -> None:
        """End every connection, also those in use."""
        self._closed = True
        ending = list(self._open)
        for connection in ending:
            connection.abort()
        for connection in ending:
            await connection.closed

    def _origin(self, request: httpx.Request) -> Origin:
        url = request.url
        scheme, host = url.scheme, url.host
        if scheme not in _PORTS or (scheme == "https" and self._tls is None):
            raise httpx.UnsupportedProtocol(f"{scheme}: is not spoken here")
        address = str(request.extensions.get("address", host))
        return scheme, address, url.port or _PORTS[scheme], host

    async def _take(self, origin: Origin, timeouts: Timeouts) -> Connection:
        await self._slot(timeouts.get("pool"))
        try:
            connection = self._idle_one(origin) or await self._connect(origin, timeouts)
        except BaseException:
            self._slots.release()
            raise
        self._busy.add(connection)
        return connection

    async def _slot(self, seconds: float | None) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout(f"no connection was free for {seconds} s") from error

    def _idle_one(self, origin: Origin) -> Connection | None:
        """The connection used last, if one is still good; those idle for too long are ended."""
        idle = self._idle.get(origin, [])
        if self._idle_seconds is not None and idle:
            oldest = asyncio.get_running_loop().time() - self._idle_seconds
            while idle and idle[0].idle_since < oldest:
                idle.pop(0).abort()
        while idle:
            connection = idle.pop()
            if connection.fresh:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin, timeouts: Timeouts) -> Connection:
        scheme, address, port, name = origin
        if len(self._open) >= self._most:
            self._end_longest_idle()
        loop = asyncio.get_running_loop()
        seconds = timeouts.get("connect")
        tls, server_hostname = None, None
        if scheme == "https" and self._tls is not None:
            tls, server_hostname = self._tls(), name
        protocol = partial(Connection, partial(self._released, origin))
        connection: Connection
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(
                    protocol, address, port, ssl=tls, server_hostname=server_hostname
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"{address}: no connection in {seconds} s") from error
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{address}: {error}") from error
        self._open[connection] = origin
        if self._closed:
            connection.abort()
            raise httpx.ConnectError("the transport is closed")
        return connection

    def _end_longest_idle(self) -> None:
        first = [idle for idle in self._idle.values() if idle]
        if first:
            min(first, key=lambda idle: idle[0].idle_since).pop(0).abort()

    def _released(self, origin: Origin, connection: Connection, reusable: bool) -> None:
        """A request is over, or a connection has ended: which of these may come more than once."""
        if connection in self._busy:
            self._busy.remove(connection)
            self._slots.release()
        idle = self._idle.setdefault(origin, [])
        if not reusable:
            if connection in idle:
                idle.remove(connection)
            if connection.closed.done():
                self._open.pop(connection, None)
        elif self._closed or sum(map(len, self._idle.values())) >= self._most_idle:
            connection.abort()
        else:
            connection.idle_since = asyncio.get_running_loop().time()
            idle.append(connection)


def head_of(request: httpx.Request, length: int) -> bytes:
    """The request line and the headers of a request with a body of so many bytes.

    Raises:
        httpx.LocalProtocolError: a part of it would be read as something else (RFC 9112, 11), or it
            is of a kind that is not sent here.
    """
    method, target = request.method.encode("ascii", "replace"), request.url.raw_path
    if not _TOKEN.fullmatch(method) or method in (b"HEAD", b"CONNECT"):
        raise httpx.LocalProtocolError(f"method {request.method} is not sent here")
    if not _TARGET.fullmatch(target):
        raise httpx.LocalProtocolError("a target may hold no spaces and no control characters")
    lines, hosts, announced = [b"%b %b HTTP/1.1" % (method, target)], 0, length == 0
    for name, value in request.headers.raw:
        if not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise httpx.LocalProtocolError(f"header {name!r} cannot be sent as it is")
        match name.lower():
            case b"host":
                hosts += 1
            case b"content-length" if value == b"%d" % length:
                announced = True
            case b"content-length" | b"transfer-encoding" | b"upgrade":
                raise httpx.LocalProtocolError(f"header {name!r} does not say what is sent")
        lines.append(b"%b: %b" % (name, value))
    if hosts != 1 or not announced:
        raise httpx.LocalProtocolError("a request names its host, and the length of its body")
    return b"\r\n".join(lines) + b"\r\n\r\n"
