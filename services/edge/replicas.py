"""Which replica of the cloud an edge speaks to, where its name stands for several addresses.

A context lives in the memory of one replica, so an edge stays with one: the first that answers in
an order that is the edge's own (rendezvous hashing, Thaler and Ravishankar 1998). Edges so spread
over the replicas, and a replica that goes takes only its own edges with it. Nothing is lost by
moving: the new replica names the position it needs, and the edge sends from there.

It is a transport under httpx; it does not know what is sent.
"""

import asyncio
import hashlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterable

import httpx

Resolve = Callable[[str, int], Awaitable[list[str]]]

# How long an answer of the name service is believed.
RESOLVED_SECONDS = 10.0
# How long the name service may take.
RESOLVING_SECONDS = 2.0
# How long an address that could not be reached is tried last.
AVOIDED_SECONDS = 30.0


async def addresses(host: str, port: int) -> list[str]:
    """The addresses of a name.

    Raises:
        httpx.ConnectError: the name service knows none.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpx.ConnectError(f"{host}: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Replicas(httpx.AsyncBaseTransport):
    """Sends each request to this edge's replica; to the next one where that cannot be reached."""

    def __init__(
        self,
        beneath: httpx.AsyncBaseTransport,
        edge: str,
        *,
        resolve: Resolve = addresses,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._beneath = beneath
        self._edge = edge
        self._resolve = resolve
        self._clock = clock
        self._known: list[str] = []
        self._known_until = 0.0
        self._asking = asyncio.Lock()
        self._avoided_until: dict[str, float] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send to the first replica that takes a connection; only connecting is tried again. One
        that takes it and then does not answer is avoided by later requests.

        Raises:
            httpx.TransportError: none takes a connection, or the one that did failed.
        """
        host = request.url.host
        port = request.url.port or {"http": 80, "https": 443}[request.url.scheme]
        order = await self._order(host, port)
        for address in order[:-1]:
            try:
                return await self._sent(address, request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._sent(order[-1], request)

    async def aclose(self) -> None:
        """Close the connections beneath."""
        await self._beneath.aclose()

    async def _sent(self, address: str, request: httpx.Request) -> httpx.Response:
        try:
            return await self._beneath.handle_async_request(_to(address, request))
        except httpx.TransportError:
            self._avoid(address)
            raise

    async def _order(self, host: str, port: int) -> list[str]:
        if self._clock() >= self._known_until or not self._known:
            async with self._asking:
                if self._clock() >= self._known_until or not self._known:
                    await self._ask(host, port)
        now = self._clock()
        return sorted(self._known, key=lambda each: self._avoided_until.get(each, 0.0) > now)

    async def _ask(self, host: str, port: int) -> None:
        """Ask the name service; where it fails, what was known before goes on to hold."""
        try:
            async with asyncio.timeout(RESOLVING_SECONDS):
                self._known = ranked(self._edge, await self._resolve(host, port))
        except (TimeoutError, httpx.ConnectError) as error:
            if not self._known:
                raise httpx.ConnectError(f"{host}: no address ({error})") from error
        self._known_until = self._clock() + RESOLVED_SECONDS

    def _avoid(self, address: str) -> None:
        now = self._clock()
        # Those that went for good would pile up otherwise.
        self._avoided_until = {a: t for a, t in self._avoided_until.items() if t > now}
        self._avoided_until[address] = now + AVOIDED_SECONDS
        # It may have a successor under another address already.
        self._known_until = now


def ranked(edge: str, replicas: Iterable[str]) -> list[str]:
    """The replicas in an edge's own order: by the digest of edge and address."""
    return sorted(replicas, key=lambda each: hashlib.sha256(f"{edge} {each}".encode()).digest())


def _to(address: str, request: httpx.Request) -> httpx.Request:
    """The same request to one address, as an extension the transport beneath knows: URL, `Host` and
    TLS still speak of the name, and a second request and URL need not be made for every one.
    """
    request.extensions = {**request.extensions, "address": address}
    return request
