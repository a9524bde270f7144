"""Edges made of nothing, for the load generator's tests: they answer what a test tells them to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine

import httpx

from cli.load import plan
from cli.load.requests import Seen
from cli.load.run import Load, Shape
from cli.load.targets import Target

Answer = Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]
DETAILS = {"degraded": False, "usage": {"cloud_requests": 1, "cloud_compute_seconds": 0.5}}
MODES = {"collaborative": 3.0, "cloud": 1.0}


def events(*sources: str) -> list[dict[str, object]]:
    """A whole generation: one event a token, the last with details."""
    said: list[dict[str, object]] = [{"token": {"source": source}} for source in sources]
    said[-1] |= {"generated_text": " and on", "details": DETAILS}
    return said


def streamed(
    said: list[dict[str, object]],
    pause: float = 0.0,
    taken: Callable[[int], object] = lambda _: None,
) -> httpx.Response:
    """Events with a pause before each; `taken` hears how many were read so far, one by one."""

    async def body() -> AsyncIterator[bytes]:
        yield b": still there\n\n"
        for number, event in enumerate(said, 1):
            await asyncio.sleep(pause)
            yield b"data:" + json.dumps(event).encode() + b"\n\n"
            taken(number)

    return httpx.Response(200, content=body())


def load(answer: Answer, *, edges: int = 1, turns: int = 1) -> Load:
    """A load on edges that answer so."""
    transport = httpx.MockTransport(answer)
    clients = [httpx.AsyncClient(transport=transport, base_url="http://e") for _ in range(edges)]
    named = [Target(f"edge-{n}", "http://e") for n in range(edges)]
    sessions = plan.Plan(["one", "two", "three"], MODES, edges, turns, seed=3)
    return Load(named, clients, sessions, {"max_new_tokens": 4})


async def run(asked: Load, shape: Shape, stopped: asyncio.Event | None = None) -> list[Seen]:
    await asked.run(shape, stopped or asyncio.Event())
    return asked.seen
