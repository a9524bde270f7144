"""`python -m benchmarks.overload`: finds out what an edge and its cloud can serve, then asks for
several times as much, and holds what clients saw against what the services counted.

Steps are paced to a 7B model's, so capacity is bounded by them and by `--at-once`, not by this
machine: the services share one core and are idle most of the time, and the load comes from another.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from benchmarks.overload import account
from benchmarks.overload.stage import Stage, bearer, running
from cli.load.plan import PROMPTS, Plan, read_prompts
from cli.load.requests import connect
from cli.load.run import Load, Shape
from cli.load.targets import Target

# Before anything is counted: pages are touched, caches filled, connections made.
WARM_SECONDS = 3.0
SAMPLE_SECONDS = 0.5


def main(
    *,
    seconds: Annotated[float, typer.Option(help="Of the overload.", min=1)] = 60.0,
    capacity_seconds: Annotated[float, typer.Option(help="Of the closed loop.", min=1)] = 20.0,
    times: Annotated[float, typer.Option(help="Offered load over capacity.", min=1)] = 4.0,
    at_once: Annotated[int, typer.Option(help="Requests the edge serves at once.", min=1)] = 8,
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.", min=1)] = 24,
    callers: Annotated[int, typer.Option(help="Keys the load comes from.", min=3)] = 6,
    per_minute: Annotated[int, typer.Option(help="Requests of two of them.", min=1)] = 6,
    mode: Annotated[str, typer.Option(help="Mode of the requests.")] = "collaborative",
    out: Annotated[Path | None, typer.Option(help="File of JSON to write.")] = None,
) -> None:
    """Run the overload and print what came of it."""
    # The services stay on the first core, the load on the others.
    cores = sorted(os.sched_getaffinity(0))
    core = cores[0] if len(cores) > 1 else None
    if core is not None:
        os.sched_setaffinity(0, set(cores[1:]))
    asked: dict[str, object] = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    plan = Plan(read_prompts(PROMPTS), {mode: 1.0}, callers, turns=1, seed=1)
    with (
        tempfile.TemporaryDirectory(prefix="tandem-overload-") as folder,
        running(
            Path(folder),
            core=core,
            at_once=at_once,
            callers=callers,
            limited=2,
            per_minute=per_minute,
        ) as stage,
    ):
        told = asyncio.run(_measure(stage, plan, asked, at_once, capacity_seconds, seconds, times))
    told = {"new_tokens": new_tokens, "at_once": at_once, "mode": mode, "seconds": seconds, **told}
    text = json.dumps(told, indent=1) + "\n"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
    print(text, end="")  # noqa: T201


async def _measure(
    stage: Stage,
    plan: Plan,
    asked: Mapping[str, object],
    at_once: int,
    capacity_seconds: float,
    seconds: float,
    times: float,
) -> dict[str, Any]:
    async with _loads(stage, plan, asked, stage.keys) as (warm, _):
        await warm.run(_users(at_once, WARM_SECONDS), asyncio.Event())
    async with _loads(stage, plan, asked, stage.keys) as (closed, _):
        await closed.run(_users(at_once, capacity_seconds), asyncio.Event())
    peak = account.done_within(closed.seen, closed.started, closed.window) / closed.window
    whole = sum(each.error is None for each in closed.seen)
    # Those that were under way when the window ended count as half done.
    rate = times * peak / (float(str(asked["max_new_tokens"])))
    before = stage.metrics(stage.edge_url)
    memory = [stage.resident_bytes()]
    async with _loads(stage, plan, asked, [*stage.keys, *stage.limited]) as (load, replies):
        sampling = asyncio.create_task(_sample(stage, memory))
        await load.run(Shape(None, rate, seconds, None), asyncio.Event())
        sampling.cancel()
    memory.append(stage.resident_bytes())
    after = stage.metrics(stage.edge_url)
    good = account.done_within(load.seen, load.started, load.window) / load.window
    errors = sorted({each.error for each in load.seen if each.error and "http" not in each.error})
    return {
        "peak_tokens_per_second": round(peak, 2),
        "requests_in_the_closed_loop": whole,
        "offered_requests_per_second": round(rate, 3),
        "offered_requests": len(load.seen),
        "goodput_tokens_per_second": round(good, 2),
        "goodput_over_peak": round(good / peak, 4),
        "accepted": account.accepted(load.seen),
        "statuses": dict(sorted(replies.statuses.items())),
        "broke_off": errors,
        "without_retry_after": replies.without_retry_after,
        "retry_after_seconds": [min(replies.retry_after), max(replies.retry_after)]
        if replies.retry_after
        else None,
        "resident_bytes": {
            name: {
                "start": memory[0][name],
                "most": max(each[name] for each in memory),
                "end": memory[-1][name],
            }
            for name in memory[0]
        },
        "mismatches": account.mismatches(load.seen, replies, before, after),
        "refusals_counted": account.increase(before, after, "tandem_admission_rejections_total"),
    }


def _users(count: int, seconds: float) -> Shape:
    return Shape(count, None, seconds, None)


@asynccontextmanager
async def _loads(
    stage: Stage, plan: Plan, asked: Mapping[str, object], keys: Sequence[str]
) -> AsyncIterator[tuple[Load, account.Replies]]:
    """A load from callers with these keys, and what they are answered with."""
    replies = account.Replies()

    async def note(response: httpx.Response) -> None:
        replies.note(response.status_code, response.headers.get("retry-after"))

    targets = [Target(f"caller-{n}", stage.edge_url) for n in range(len(keys))]
    own = Plan(plan.prompts, plan.modes, len(keys), plan.turns, plan.seed)
    async with AsyncExitStack() as stack:
        clients = []
        for target, key in zip(targets, keys, strict=True):
            client = await stack.enter_async_context(connect(target.url))
            client.headers.update(bearer(key))
            client.event_hooks = {"response": [note]}
            clients.append(client)
        yield Load(targets, clients, own, asked), replies


async def _sample(stage: Stage, memory: list[dict[str, int]]) -> None:
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        memory.append(stage.resident_bytes())


if __name__ == "__main__":
    typer.run(main)
