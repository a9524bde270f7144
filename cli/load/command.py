"""`tandem load`: puts a load on edges and says what their users would have seen.

It knows the options and what is shown when; the modules beside it know the rest.
"""

import asyncio
import json
import math
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from cli.credential import KeyFile, key_of
from cli.errors import CommandError
from cli.load import options, plan, report
from cli.load.plot import check, plot
from cli.load.progress import Progress, shown
from cli.load.requests import connect
from cli.load.run import Load, Shape, cancelled_by
from cli.load.targets import Target, own_names, targets, wait_ready
from cli.terminal import console


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, checked."""

    targets: list[Target]
    discovered: bool
    plan: plan.Plan
    shape: Shape
    parameters: dict[str, Any]
    key: str | None = field(default=None, repr=False)

    def told(self) -> dict[str, object]:
        """What the report says of it."""
        return {
            **asdict(self.shape),
            "modes": self.plan.modes,
            "turns": self.plan.turns,
            "seed": self.plan.seed,
            "parameters": self.parameters,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A load that is over; `own_names` has what edges call themselves, by target name."""

    load: Load
    own_names: Mapping[str, str]
    ended_early: bool


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
    key_file: KeyFile = None,
) -> None:
    """Put a load on one or several edges; a table of throughput, waits and offload ratio."""
    _check_finite(
        rate=rate, duration=duration, wait_ready=wait_ready,
        temperature=temperature, threshold=threshold,
    )  # fmt: skip
    shape = _shape(users, rate, duration, requests)
    _check_files(json_file, plot_file)
    found = targets(edge, discover=discover)
    weights = plan.read_modes(mode or ["collaborative"])
    texts = plan.read_prompts(prompts or plan.PROMPTS)
    given = {"temperature": temperature, "threshold": threshold, "codec": codec}
    parameters = {name: value for name, value in given.items() if value is not None}
    parameters["max_new_tokens"] = max_new_tokens
    sessions = plan.Plan(texts, weights, len(found), turns, seed)
    asked = Asked(found, discover, sessions, shape, parameters, key_of(key_file))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    outcome = asyncio.run(_run(asked, wait_ready))
    done = outcome.load
    told = report.report(
        done.seen,
        [each.name for each in found],
        began=done.started,
        window=done.window,
        started=started,
        load=asked.told(),
    )
    _show(told, outcome.own_names, json_file)
    if plot_file is not None:
        plot(done.seen, started=done.started, window=done.window, file=plot_file)
    if not done.seen and not outcome.ended_early:
        raise CommandError("no request was due in that time; give it more of --rate or --duration")
    if told.error_share > max_error_share:
        raise CommandError(f"{told.error_share:.1%} of the requests failed")


def _shape(
    users: int | None, rate: float | None, duration: float | None, requests: int | None
) -> Shape:
    if (users is None) == (rate is None):
        raise CommandError("give --users (closed loop) or --rate (open loop), one of them")
    if (duration is None) == (requests is None):
        raise CommandError("give --duration or --requests, one of them")
    return Shape(users, rate, duration, requests)


def _check_finite(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not math.isfinite(number):
            raise CommandError(f"--{name.replace('_', '-')} {number} is no number to work with")


def _check_files(json_file: str | None, plot_file: Path | None) -> None:
    """Say before the load, not after it, that its outcome could not be written."""
    if json_file not in (None, "-") and not Path(json_file).parent.is_dir():
        raise CommandError(f"--json {json_file}: there is no folder {Path(json_file).parent}")
    if plot_file is not None:
        check(plot_file)


def _show(told: report.Report, own_names: Mapping[str, str], json_file: str | None) -> None:
    alone = json_file == "-"
    terminal = console(stderr=alone)
    # A log has no width; a table folded to 80 columns is hard to read there.
    if not terminal.is_terminal:
        terminal = Console(stderr=alone, width=160, highlight=False)
    terminal.print(report.table(told, own_names))
    for remark in report.remarks(told):
        terminal.print(remark, soft_wrap=True)
    if json_file is None:
        return
    text = json.dumps(told.json(), indent=1) + "\n"
    if alone:
        sys.stdout.write(text)
        return
    try:
        Path(json_file).write_text(text)
    except OSError as error:
        raise CommandError(f"{json_file} cannot be written: {error}") from error


async def _run(asked: Asked, seconds_to_wait: float) -> Outcome:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect(e.url, asked.key)) for e in asked.targets
        ]
        before = asyncio.ensure_future(_before(asked, clients, seconds_to_wait))
        async with cancelled_by(stopped, before.cancel):
            await asyncio.wait({before})
        names = {} if before.cancelled() else before.result()
        under_way = Load(asked.targets, clients, asked.plan, asked.parameters)
        async with shown(Progress(under_way, asked.shape)):
            await under_way.run(asked.shape, stopped)
        return Outcome(under_way, names, ended_early=stopped.is_set())


async def _before(
    asked: Asked, clients: Sequence[httpx.AsyncClient], seconds_to_wait: float
) -> dict[str, str]:
    """Wait for the edges; what those that were discovered call themselves."""
    if seconds_to_wait:
        needs_cloud = set(asked.plan.modes) != {"standalone"}
        await wait_ready(clients, seconds=seconds_to_wait, with_cloud=needs_cloud)
    return await own_names(asked.targets, clients) if asked.discovered else {}
