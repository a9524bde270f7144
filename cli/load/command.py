"""`tandem load`: puts a load on edges and says what their users would have seen.

It knows the options and what is shown when; the modules beside it know the rest.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.errors import CommandError
from cli.load import options, plan, report
from cli.load.plot import plot
from cli.load.requests import connect
from cli.load.run import Load, Shape
from cli.load.targets import Target, targets, wait_ready
from cli.terminal import console

LINE_SECONDS = 10.0
STATUS_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, checked."""

    targets: list[Target]
    plan: plan.Plan
    shape: Shape
    parameters: dict[str, Any]

    def told(self) -> dict[str, object]:
        """What the report says of it."""
        return {
            **asdict(self.shape),
            "modes": self.plan.modes,
            "turns": self.plan.turns,
            "seed": self.plan.seed,
            "parameters": self.parameters,
        }


def load(
    *,
    edge: options.Edges,
    discover: options.Discover = False,
    prompts: options.Prompts = None,
    users: options.Users = None,
    rate: options.Rate = None,
    duration: options.Duration = None,
    requests: options.Requests = None,
    mode: options.Modes = None,
    turns: options.Turns = 1,
    max_new_tokens: options.MaxNewTokens = 64,
    temperature: options.Temperature = None,
    threshold: options.Threshold = None,
    codec: options.Codec = None,
    seed: options.Seed = 0,
    wait_ready: options.WaitReady = 0.0,
    json_file: options.Json = None,
    plot_file: options.Plot = None,
    max_error_share: options.MaxErrorShare = 0.0,
) -> None:
    """Put a load on one or several edges; a table of throughput, waits and offload ratio."""
    shape = _shape(users, rate, duration, requests)
    found = targets(edge, discover=discover)
    weights = plan.read_modes(mode or ["collaborative"])
    texts = plan.read_prompts(prompts or plan.PROMPTS)
    given = {"temperature": temperature, "threshold": threshold, "codec": codec}
    parameters = {name: value for name, value in given.items() if value is not None}
    parameters["max_new_tokens"] = max_new_tokens
    asked = Asked(found, plan.Plan(texts, weights, len(found), turns, seed), shape, parameters)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    done = asyncio.run(_run(asked, wait_ready))
    outcome = report.report(
        done.seen,
        [each.name for each in found],
        began=done.started,
        window=done.window,
        started=started,
        load=asked.told(),
    )
    _show(outcome, json_file)
    if plot_file is not None:
        plot(done.seen, started=done.started, window=done.window, file=plot_file)
    if outcome.error_share > max_error_share:
        raise CommandError(f"{outcome.error_share:.1%} of the requests failed")


def _shape(
    users: int | None, rate: float | None, duration: float | None, requests: int | None
) -> Shape:
    if (users is None) == (rate is None):
        raise CommandError("give --users (closed loop) or --rate (open loop), one of them")
    if (duration is None) == (requests is None):
        raise CommandError("give --duration or --requests, one of them")
    return Shape(users, rate, duration, requests)


def _show(outcome: report.Report, json_file: str | None) -> None:
    alone = json_file == "-"
    terminal = console(stderr=alone)
    # A log has no width; a table folded to 80 columns is hard to read there.
    if not terminal.is_terminal:
        terminal = Console(stderr=alone, width=160, highlight=False)
    terminal.print(report.table(outcome))
    for remark in report.remarks(outcome):
        terminal.print(remark, soft_wrap=True)
    if json_file is None:
        return
    text = json.dumps(outcome.json(), indent=1) + "\n"
    if alone:
        sys.stdout.write(text)
        return
    try:
        Path(json_file).write_text(text)
    except OSError as error:
        raise CommandError(f"{json_file} cannot be written: {error}") from error


async def _run(asked: Asked, seconds_to_wait: float) -> Load:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connect(e.url)) for e in asked.targets]
        if seconds_to_wait:
            needs_cloud = set(asked.plan.modes) != {"standalone"}
            await wait_ready(clients, seconds=seconds_to_wait, with_cloud=needs_cloud)
        under_way = Load(asked.targets, clients, asked.plan, asked.parameters)
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        async with _progress(under_way, asked.shape):
            await under_way.run(asked.shape, stopped)
        return under_way


@asynccontextmanager
async def _progress(under_way: Load, shape: Shape) -> AsyncIterator[None]:
    """Say on standard error how far the load is: in place on a terminal, else now and then."""
    terminal = console(stderr=True)

    async def tell() -> None:
        if not terminal.is_terminal:
            while True:
                await asyncio.sleep(LINE_SECONDS)
                terminal.print(_line(under_way, shape), soft_wrap=True)
        with terminal.status("") as status:
            while True:
                status.update(_line(under_way, shape))
                await asyncio.sleep(STATUS_SECONDS)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling


def _line(under_way: Load, shape: Shape) -> str:
    seconds = time.monotonic() - under_way.started if under_way.started else 0.0
    seen = under_way.seen
    open_now = sum(each.ended is None for each in seen)
    failed = sum(each.error is not None for each in seen)
    tokens = sum(each.sources.total() for each in seen)
    whole = f"{shape.seconds:.0f} s" if shape.seconds is not None else f"{shape.requests} requests"
    return (
        f"{seconds:.0f} s of {whole}: {len(seen)} requests, {open_now} under way, {failed} failed, "
        f"{tokens} tokens"
    )
