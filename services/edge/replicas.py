"""The replicas of the cloud an edge knows: where they are, how they have answered, and which of
them a session begins at.

A session begins at the first replica that serves, in an order that is the session's own (rendezvous
hashing, Thaler and Ravishankar 1998): sessions spread over the replicas, a replica that goes takes
only its own with it, and a conversation comes back to where its prompt's KV is. Nothing is lost by
moving, so this is never needed for correctness.
"""

import asyncio
import hashlib
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import httpx

from shared.runtime.breaker import Breaker

Resolve = Callable[[str, int], Awaitable[list[str]]]

# How long an answer of the name service is believed.
RESOLVED_SECONDS = 10.0
# How long the name service may take.
RESOLVING_SECONDS = 2.0
# How long a replica that said it would end is tried last; looks at it may end this sooner.
LEAVING_SECONDS = 30.0
# One connection that breaks, or one damaged answer, is no outage yet: the same replica is asked
# again, which has the context.
_PASSING = ("broken", "malformed")


@dataclass(slots=True, eq=False)
class Replica:
    """One replica: the URL it was named by, and the address to connect to in place of its host.

    `unfit` says why it cannot serve this edge, `locked_out` that another key would do; `sessions`
    counts those that are there, `broke` remembers a connection that broke off.
    """

    url: httpx.URL
    address: str | None
    breaker: Breaker
    unfit: str | None = None
    locked_out: bool = False
    broke: bool = False
    sessions: int = 0
    failed_at: float = 0.0
    _leaving_until: float = 0.0

    @property
    def name(self) -> str:
        """What tells it from others."""
        return f"{self.address or self.url.host}:{self.url.port or self.url.scheme}"

    @property
    def up(self) -> bool:
        """Whether the last thing known of it is good."""
        return self.breaker.failures == 0 and self.unfit is None

    @property
    def leaving(self) -> bool:
        """Whether it has said that it is about to end."""
        return self.breaker.clock() < self._leaving_until

    @property
    def serves(self) -> bool:
        """Whether it is up and means to stay."""
        return self.up and not self.leaving

    @property
    def reluctance(self) -> tuple[bool, bool, bool, float]:
        """Smaller for a replica rather to be tried; of those that are down, for the one that
        failed first.
        """
        return (self.unfit is not None, not self.up, self.leaving, self.failed_at)

    def answered(self) -> None:
        """Record an answer."""
        self.broke, self.failed_at = False, 0.0
        self.breaker.succeeded()

    def failed(self, reason: str) -> None:
        """Record that no usable answer came."""
        if reason in _PASSING and not self.broke:
            self.broke = True
        else:
            self.lost(reason)

    def refuses(self, why: str, *, locked_out: bool = False) -> None:
        """Record that it is there, and not for this edge."""
        self.unfit, self.locked_out = why, locked_out

    def fits(self) -> None:
        """Record that it serves this edge."""
        self.unfit, self.locked_out = None, False

    def lost(self, reason: str) -> None:
        """Record that it is down."""
        self.failed_at = self.breaker.clock()
        self.breaker.failed(reason)

    def leaves(self) -> None:
        """Record that it is about to end."""
        self._leaving_until = self.breaker.clock() + LEAVING_SECONDS

    def stays(self) -> None:
        """Record that it no longer says so."""
        self._leaving_until = 0.0


@dataclass(slots=True)
class Replicas:
    """Every replica behind the URLs an edge was given.

    Args:
        urls: base URLs; the host of each may stand for several addresses.
        breaker: makes a replica's breaker.
        resolve: the addresses of a name; without it each URL is one replica.
    """

    urls: Sequence[httpx.URL]
    breaker: Callable[[], Breaker]
    resolve: "Resolve | None" = None
    clock: Callable[[], float] = time.monotonic
    known: "list[Replica]" = field(default_factory=list)
    _known_until: float = -1.0
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def pick(self, key: str, but: Collection[Replica] = ()) -> Replica:
        """The replica a session of this key goes to: the first of its order that serves; none of
        `but` where there is another that does. Where none serves, one that leaves comes last: it
        takes no new session, and one that was down may be back.

        Raises:
            httpx.ConnectError: no name has an address.
        """
        await self.refresh()
        order = ranked(key, self.known)

        def reluctance(each: Replica) -> tuple[bool, bool, bool, bool, float]:
            return (
                each.unfit is not None,
                not each.serves,
                each in but,
                each.leaving,
                each.failed_at,
            )

        return min(order, key=reluctance)

    async def refresh(self) -> None:
        """Look up the names where that was some time ago; where it fails, what was known before
        goes on to hold.

        Raises:
            httpx.ConnectError: nothing is known, and no name has an address.
        """
        if self._is_fresh():
            return
        async with self._asking:
            if self._is_fresh():
                return
            found, trouble = [], None
            for url in self.urls:
                try:
                    found += [(url, address) for address in await self._addresses(url)]
                except (TimeoutError, httpx.ConnectError) as error:
                    found += [(each.url, each.address) for each in self.known if each.url == url]
                    trouble = error
            if not found:
                raise httpx.ConnectError(f"no address of the cloud ({trouble})") from trouble
            before = {(each.url, each.address): each for each in self.known}
            self.known = [
                before.get(at) or Replica(*at, breaker=self.breaker())
                for at in dict.fromkeys(found)
            ]
            self._known_until = self.clock() + RESOLVED_SECONDS

    def doubt(self) -> None:
        """Look the names up again before the next session: what failed may have a successor under
        another address already.
        """
        self._known_until = self.clock()

    def count_serving(self) -> int:
        """How many are up and mean to stay."""
        return sum(each.serves for each in self.known)

    @property
    def serving(self) -> bool:
        """Whether there is one to go to, as far as is known."""
        return any(each.up for each in self.known)

    def _is_fresh(self) -> bool:
        return bool(self.known) and self.clock() < self._known_until

    async def _addresses(self, url: httpx.URL) -> "Sequence[str | None]":
        if self.resolve is None:
            return [None]
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        async with asyncio.timeout(RESOLVING_SECONDS):
            return await self.resolve(url.host, port)


def ranked(key: str, replicas: Iterable[Replica]) -> list[Replica]:
    """Replicas in this key's order."""

    def weight(replica: Replica) -> bytes:
        said = f"{key}\n{replica.name}".encode()
        return hashlib.blake2b(said, digest_size=8).digest()

    return sorted(replicas, key=weight, reverse=True)


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
