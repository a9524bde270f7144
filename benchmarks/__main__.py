"""`python -m benchmarks`: the whole benchmark, its table and its plots (`make bench`).

It chooses sizes, says what is going on and writes results; what is measured is `suite`'s.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import prompts, rows
from benchmarks.cells import Cell, parse
from benchmarks.paced.prices import deviations, paper_prices
from benchmarks.report.compare import TOLERANCE_PACED, TOLERANCE_REAL, compare
from benchmarks.report.page import write
from benchmarks.rows import Row
from benchmarks.sampling import Sampling
from benchmarks.suite import Outcome, Plan, run
from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL
from shared.errors import BadModel

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LONGEST_PROMPT = 512


def main(
    *,
    quick: Annotated[bool, typer.Option(help="Paced at one bandwidth, real on loopback.")] = False,
    model: Annotated[Path, typer.Option(help="Checkpoint to serve.")] = SHIPPED_MODEL,
    prompt_file: Annotated[
        Path, typer.Option("--prompts", help='JSON lines with a "prompt" each; .xz is read.')
    ] = prompts.SHIPPED,
    count: Annotated[int, typer.Option(min=1, help="Prompts to ask.")] = 3,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of every answer.")] = 20,
    repeats: Annotated[int | None, typer.Option(min=1, help="Runs of every cell.")] = None,
    cell: Annotated[
        list[str] | None, typer.Option(help="Only this network, as paced:3:30 (ms, Mbit/s).")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of every request; 0 is greedy.")] = 0.0,
    top_p: Annotated[
        float | None, typer.Option(help="Of every request; needs a temperature.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Each prompt's is made from it; needs a temperature; else 0."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for rows, table and plots.")] = RESULTS,
) -> None:
    """Measure every deployment on every network and write the table and the plots."""
    began, partial = time.monotonic(), out / "partial.json"
    out.mkdir(parents=True, exist_ok=True)

    def tell(what: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:5.0f} s  {what}\n")

    def save(outcome: Outcome) -> None:
        rows.save(partial, outcome.rows)

    plan = Plan(
        model=model,
        prompts=prompts.read(prompt_file, model, count=count, longest=LONGEST_PROMPT),
        new_tokens=new_tokens,
        sampling=Sampling.asked(temperature, top_p, seed),
        repeats=repeats or (1 if quick else 2),
        quick=quick,
        cells=_cells(cell),
        tell=tell,
        save=save,
    )
    before = _before(out / "latest.json")
    outcome = run(plan)
    save(outcome)
    # Only a whole run takes the place of the one before it.
    partial.replace(out / "latest.json")
    (out / "traces.json").write_text(json.dumps(outcome.traces, indent=1) + "\n")
    seconds = round(time.monotonic() - began)
    about = _about(plan, outcome, seconds=seconds, prompt_file=prompt_file)
    (out / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    tell(f"tables and plots: {write(out)}")
    _compare(outcome.rows, before, tell)


def _cells(named: Sequence[str] | None) -> Sequence[Cell] | None:
    try:
        return [parse(each) for each in named] if named else None
    except ValueError as error:
        raise CommandError(f"--cell takes set-up:milliseconds:Mbit/s: {error}") from error


def _before(path: Path) -> Sequence[Row]:
    """The rows that lie there: in a fresh checkout the committed ones."""
    return rows.load(path) if path.exists() else []


def _compare(found: Sequence[Row], before: Sequence[Row], tell: Callable[[str], None]) -> None:
    """Say which figures are not what they were."""
    try:
        told = compare(found, before, paced=TOLERANCE_PACED, real=TOLERANCE_REAL)
    except CommandError as error:
        tell(f"not compared with the rows before: {error}")
        return
    for each in told.differences:
        tell(str(each))
    tell(f"{len(told.differences)} figures of {told.compared} rows are not what they were")


def _about(
    plan: Plan, outcome: Outcome, *, seconds: int, prompt_file: Path
) -> Mapping[str, object]:
    """Commit, machine and date of this run, what was asked and how."""
    return {
        "commit": _commit(),
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": plan.quick,
        "seconds": seconds,
        "model": plan.model.name,
        "prompts": prompt_file.name,
        "sampling": asdict(plan.sampling),
        "versions": {name: version(name) for name in ("torch", "transformers", "httpx")},
        "late_steps": outcome.late_steps,
        "prices": asdict(paper_prices()),
        "unit_costs_ms": deviations(paper_prices()),
    }


def _commit() -> str | None:
    """The commit measured, marked where files differ from it; none outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


if __name__ == "__main__":
    try:
        typer.run(main)
    except (CommandError, BadModel) as error:
        sys.exit(str(error))
