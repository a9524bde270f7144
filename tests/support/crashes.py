"""Replicas of a cloud behind one transport, that crash and come back as a test's script says.

Request k befalls `script[k]` at the replica it is sent to; what is no crash is told to `suffer`.
One replica always serves.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Protocol

import httpx
from fastapi import FastAPI
from hypothesis import strategies as st

from services.edge.replicas import Replicas
from services.edge.route import RetryBudget, Route
from shared.runtime.breaker import Breaker

# Requests between two crashes, so that a need has tries left: several are under way at once.
APART = 6


class Crash(StrEnum):
    """What happens to a replica at a request."""

    BEFORE = "it dies, and the request with it"
    AFTER = "it takes the request and dies before it answers"
    RESTART = "it has been restarted and knows nothing"
    BOTH = "every replica that serves is sent the request, in turn"


@st.composite
def crash_scripts(draw: st.DrawFn) -> list[Crash | None]:
    """Up to four crashes, each with time to recover from it."""
    befalling = draw(st.lists(st.sampled_from(list(Crash)), max_size=4))
    script: list[Crash | None] = [None] * draw(st.integers(0, 3))
    for crash in befalling:
        script += [crash, *[None] * draw(st.integers(APART, 2 * APART))]
    return script


class Hosted(Protocol):
    """A replica, as this transport sees it."""

    @property
    def app(self) -> FastAPI: ...

    def forget(self) -> None: ...


class Crashing(httpx.AsyncBaseTransport):
    """Replicas at http://cloud-0, http://cloud-1 and so on; a dead one comes back when the next
    dies.
    """

    def __init__(
        self,
        hosted: Sequence[Hosted],
        script: Sequence[Crash | str | None],
        suffer: Callable[[str], None] | None = None,
    ) -> None:
        self._suffer = suffer
        self._hosted = {f"cloud-{n}": each for n, each in enumerate(hosted)}
        self._apps = {name: httpx.ASGITransport(each.app) for name, each in self._hosted.items()}
        self._script = list(script)
        self._dead: str | None = None
        self._lives: Counter[str] = Counter()
        self.asked: list[str] = []

    def route(self) -> Route:
        """A session's way over all of them, without pauses."""
        urls = [httpx.URL(f"http://{name}") for name in self._hosted]
        replicas = Replicas(urls, lambda: Breaker(0.0, 0.0))
        return Route(replicas, "session-1", RetryBudget(1000.0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        name = request.url.host
        self.asked.append(name)
        if name == self._dead:
            raise httpx.ConnectError("refused", request=request)
        crash = self._script.pop(0) if self._script else None
        match crash:
            case Crash.BEFORE:
                self._kill(name)
                raise httpx.ReadError("reset", request=request)
            case Crash.AFTER:
                with suppress(httpx.ReadError):
                    await self._answer(name, request)
                self._kill(name)
                raise httpx.ReadError("reset", request=request)
            case Crash.RESTART:
                self._end(name)
            case Crash.BOTH:
                for other in self._hosted:
                    if other not in (name, self._dead):
                        with suppress(httpx.ReadError):
                            await self._answer(other, request)
            case str() if self._suffer is not None:
                self._suffer(crash)
            case _:
                pass
        return await self._answer(name, request)

    def expire(self) -> None:
        """What a session's time to live is for: replicas that its edge never turned to forget, and
        what a dead one's last requests, which go on here, have left.
        """
        for name in self._hosted:
            if name not in self.asked or self._lives[name]:
                self._hosted[name].forget()

    def _kill(self, name: str) -> None:
        self._end(name)
        self._dead = name

    def _end(self, name: str) -> None:
        """End a replica's life, and with it every request it has not answered."""
        self._lives[name] += 1
        self._hosted[name].forget()

    async def _answer(self, name: str, request: httpx.Request) -> httpx.Response:
        again = httpx.Request(
            request.method, request.url, headers=request.headers, content=await request.aread()
        )
        life = self._lives[name]
        answer = await self._apps[name].handle_async_request(again)
        if self._lives[name] != life:
            raise httpx.ReadError("reset", request=request)
        content = await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=content)
