"""`python -m benchmarks.engine.emergency`: what `priority: emergency` is worth at 90 % load, and
what it costs the others.

Both services as processes with a random Llama of 200 M parameters. How many requests a second they
can serve is measured first; then normal requests come at random (Poisson) at 90 % of that, and
emergencies, which count towards it, one after the other with a pause between.

Prompts are of up to 40 tokens and wait, as prompts, for a place in a step.
"""

import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
import typer

from benchmarks import prompts
from benchmarks.engine.services import edge_and_cloud
from cli.partition import SHIPPED_MODEL

LOAD = 0.9
KEY = "benchmark"
SHORT_PAUSE_SECONDS = 0.5
RESULTS = Path(__file__).parents[1] / "results" / "engine"
_PATIENCE = httpx.Timeout(600)
_NAMES = (
    ("free", "emergencies, unloaded"),
    ("queued", "the same as normal requests, at 90 % load"),
    ("urgent", "emergencies, at 90 % load"),
    ("before", "others, beside normal requests"),
    ("others", "others, beside emergencies"),
)


@dataclass(slots=True)
class Seen:
    """Seconds from asking to the last token and to the first, and between tokens, of requests."""

    e2e: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured, by who asked (`_NAMES`); capacity in requests a second."""

    mode: str
    capacity: float
    sessions: int
    tokens: int
    seen: dict[str, Seen]


@dataclass(slots=True)
class Load:
    """Asks an edge for texts of so many tokens."""

    client: httpx.AsyncClient
    mode: str
    tokens: int
    texts: Sequence[str]
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    async def ask(self, seen: Seen, *, urgent: bool = False) -> None:
        """Stream one answer."""
        began = time.perf_counter()
        moments: list[float] = []
        body = self._body("emergency" if urgent else "normal")
        headers = {"authorization": f"Bearer {KEY}"} if urgent else {}
        async with self.client.stream("POST", "/generate", json=body, headers=headers) as response:
            if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                seen.refused += 1
                return
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    moments.append(time.perf_counter())
        seen.e2e.append(moments[-1] - began)
        seen.first.append(moments[0] - began)
        seen.gaps += [after - before for before, after in pairwise(moments)]

    async def capacity(self, sessions: int, seconds: float) -> float:
        """Requests served a second by so many sessions that ask again at once."""
        seen, until = Seen(), time.perf_counter() + seconds

        async def session() -> None:
            while time.perf_counter() < until:
                await self.ask(seen)

        began = time.perf_counter()
        await asyncio.gather(*(session() for _ in range(sessions)))
        return len(seen.e2e) / (time.perf_counter() - began)

    async def one_by_one(self, count: int, *, urgent: bool, pause: float) -> Seen:
        """Requests with a pause of so many seconds, more or less, between."""
        seen = Seen()
        for _ in range(count):
            await self.ask(seen, urgent=urgent)
            await asyncio.sleep(pause * self.chance.uniform(0.5, 1.5))
        return seen

    @asynccontextmanager
    async def background(self, rate: float) -> AsyncIterator[Seen]:
        """Normal requests at random, so many a second; those under way at the end are finished."""
        seen, done = Seen(), asyncio.Event()

        async def arrive() -> None:
            async with asyncio.TaskGroup() as group:
                while not done.is_set():
                    await asyncio.sleep(self.chance.expovariate(rate))
                    group.create_task(self.ask(seen))

        arriving = asyncio.create_task(arrive())
        await asyncio.sleep(5)
        try:
            yield seen
        finally:
            done.set()
            await arriving

    def _body(self, priority: str) -> dict[str, Any]:
        lengths = {"max_new_tokens": self.tokens, "min_new_tokens": self.tokens}
        parameters = {"mode": self.mode, "priority": priority, **lengths}
        text = self.chance.choice(self.texts)
        return {"inputs": text, "parameters": parameters, "stream": True}


def main(
    *,
    mode: Annotated[str, typer.Option(help="Of every request.")] = "split",
    count: Annotated[int, typer.Option(min=4, help="Emergencies, loaded and unloaded.")] = 12,
    tokens: Annotated[int, typer.Option(min=4, help="Of a request.")] = 32,
    sessions: Annotated[int, typer.Option(min=1, help="That measure the capacity.")] = 16,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between emergencies.")] = 6,
    compute_format: Annotated[str, typer.Option("--format", help="Of both sides.")] = "bf16",
    out: Annotated[Path, typer.Option(help="Folder for rows and table.")] = RESULTS,
) -> None:
    """Measure a mode, and write its rows and table."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as keys:
        digest = sha256(KEY.encode()).hexdigest()
        keys.write(f'keys.urgent = {{sha256 = "{digest}", scopes = ["generate", "priority"]}}\n')
        keys.flush()
        os.environ["TANDEM_EDGE_KEYS_FILE"] = keys.name
        os.environ["TANDEM_EDGE_WITHOUT_KEY"] = "generate,metrics"
        with edge_and_cloud(compute_format) as url:
            found = asyncio.run(_measure(url, mode, count, tokens, sessions, pause))
    page = table(found, compute_format)
    typer.echo(page)
    out.mkdir(parents=True, exist_ok=True)
    # Thousands of seconds: microseconds are noise.
    kept = json.loads(json.dumps(asdict(found)), parse_float=lambda text: round(float(text), 5))
    (out / f"emergency-{mode}.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n")
    (out / f"emergency-{mode}.md").write_text(page)


async def _measure(
    url: str, mode: str, count: int, tokens: int, sessions: int, pause: float
) -> Outcome:
    limits = httpx.Limits(max_connections=None)
    texts = [p.text for p in prompts.read(prompts.SHIPPED, SHIPPED_MODEL, count=10, longest=40)]
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE, limits=limits) as client:
        load = Load(client, mode, tokens, texts)
        await load.capacity(sessions, 3)  # warm-up
        capacity = await load.capacity(sessions, 15)
        free = await load.one_by_one(count, urgent=True, pause=SHORT_PAUSE_SECONDS)
        rate = LOAD * capacity - 1 / (statistics.mean(free.e2e) + pause)
        async with load.background(rate) as before:
            queued = await load.one_by_one(count // 2, urgent=False, pause=SHORT_PAUSE_SECONDS)
        async with load.background(rate) as others:
            urgent = await load.one_by_one(count, urgent=True, pause=pause)
    seen = {"free": free, "queued": queued, "urgent": urgent, "before": before, "others": others}
    return Outcome(mode, capacity, sessions, tokens, seen)


def table(outcome: Outcome, compute_format: str) -> str:
    """The outcome as a page."""
    head = f"""# Emergencies, mode {outcome.mode}

`python -m benchmarks.engine.emergency --mode {outcome.mode}`, torch {torch.__version__}, a Llama of 200 M random parameters in {compute_format}, both services and the load on the same 2 cores.
Seconds: *request* from asking to the last token, *first* to the first, *gap* between tokens.

"""  # noqa: E501
    return head + "\n".join(_lines(outcome))


def _lines(outcome: Outcome) -> list[str]:
    seen = outcome.seen
    lines = [
        f"Mode `{outcome.mode}`, {outcome.tokens} tokens a request; {outcome.capacity:.2f} requests"
        f" a second with {outcome.sessions} sessions at once.",
        "",
        "| | requests | refused | request p50 | p95 | first p95 | max | gap p50 | p95 | max |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for key, name in _NAMES:
        each = seen[key]
        lines.append(
            f"| {name} | {len(each.e2e)} | {each.refused} "
            f"| {_part(each.e2e, 10):.2f} | {_part(each.e2e, 19):.2f} "
            f"| {_part(each.first, 19):.2f} | {max(each.first):.2f} | {_part(each.gaps, 10):.3f} "
            f"| {_part(each.gaps, 19):.3f} | {max(each.gaps):.3f} |"
        )
    ratios = (
        f"{_part(seen['urgent'].e2e, 19) / _part(seen['free'].e2e, 19):.2f} (request)",
        f"{_part(seen['urgent'].first, 19) / _part(seen['free'].first, 19):.2f} (first token)",
        f"{_part(seen['urgent'].gaps, 19) / _part(seen['free'].gaps, 19):.2f} (gap)",
    )
    return [*lines, "", f"p95 of emergencies, loaded over unloaded: {', '.join(ratios)}.", ""]


def _part(seconds: Sequence[float], twentieths: int) -> float:
    return statistics.quantiles(seconds, n=20, method="inclusive")[twentieths - 1]


if __name__ == "__main__":
    typer.run(main)
