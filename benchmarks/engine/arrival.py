"""`python -m benchmarks.engine.arrival`: what a long prompt that arrives costs those who are being
served.

Both services as processes with a random Llama of 200 M parameters, every token through both (mode
`split`). Some sessions stream; after a while one prompt of 2,000 tokens arrives; their time between
tokens while it is run is held against that before.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any

import httpx
import typer

from benchmarks import prompts
from benchmarks.engine.services import edge_and_cloud
from cli.partition import SHIPPED_MODEL

_PATIENCE = httpx.Timeout(600)


@dataclass(slots=True)
class Streams:
    """When the tokens of some sessions came, by session."""

    moments: list[list[float]] = field(default_factory=list)

    def gaps(self, began: float, ended: float) -> Sequence[float]:
        """Seconds between tokens of one session, of those that reach into a span of time."""
        return [
            after - before
            for each in self.moments
            for before, after in pairwise(each)
            if before < ended and after > began
        ]

    async def read(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        """Stream one answer."""
        moments: list[float] = []
        self.moments.append(moments)
        async with client.stream("POST", "/generate", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    moments.append(time.perf_counter())


def main(
    *,
    sessions: Annotated[int, typer.Option(min=1, help="Streams beside the prompt.")] = 4,
    tokens: Annotated[int, typer.Option(min=100, help="Of the prompt.")] = 2000,
    before: Annotated[float, typer.Option(min=1, help="Seconds before it arrives.")] = 20,
    compute_format: Annotated[str, typer.Option("--format", help="Of both sides.")] = "bf16",
) -> None:
    """Print p50 and p95 between tokens before and during, and how long the prompt took."""
    with edge_and_cloud(compute_format) as url:
        asyncio.run(_measure(url, sessions, tokens, before))


async def _measure(url: str, sessions: int, tokens: int, before: float) -> None:
    words = " ".join(p.text for p in _texts())
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE) as client:
        length = await _tokens(client, words)
        prompt = words * (tokens // length + 2)
        prompt = prompt[: int(len(words) * tokens / length)]
        # Long prompts have been seen before: how long a row takes is known.
        await client.post("/generate", json=_body(words, 1))
        streams = Streams()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(streams.read(client, _body(f"{n} {words[:200]}", 1500)))
                for n in range(sessions)
            ]
            await asyncio.sleep(5)
            began = time.perf_counter()
            await asyncio.sleep(before)
            arrived = time.perf_counter()
            run = await _tokens(client, prompt)
            ended = time.perf_counter()
            for task in tasks:
                task.cancel()
    free, beside = streams.gaps(began, arrived), streams.gaps(arrived, ended)
    typer.echo("| | p50 | p95 |\n|---|---:|---:|")
    for name, gaps in (("before", free), (f"beside a prompt of {run} tokens", beside)):
        typer.echo(f"| {name} | {1e3 * _part(gaps, 10):.0f} ms | {1e3 * _part(gaps, 19):.0f} ms |")
    ratio = _part(beside, 19) / _part(free, 19)
    typer.echo(f"p95 beside over before: {ratio:.2f}; the prompt took {ended - arrived:.1f} s")


def _texts() -> Sequence[prompts.Prompt]:
    return prompts.read(prompts.SHIPPED, SHIPPED_MODEL, count=10, longest=160)


async def _tokens(client: httpx.AsyncClient, text: str) -> int:
    """Run a prompt; how many tokens it has."""
    answer = (await client.post("/generate", json=_body(text, 1))).raise_for_status().json()
    return int(answer["details"]["usage"]["prompt_tokens"])


def _body(text: str, new_tokens: int) -> dict[str, Any]:
    parameters = {
        "mode": "split",
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "details": True,
    }
    return {"inputs": text, "parameters": parameters, "stream": new_tokens > 1}


def _part(gaps: Sequence[float], twentieths: int) -> float:
    return statistics.quantiles(gaps, n=20)[twentieths - 1]


if __name__ == "__main__":
    typer.run(main)
