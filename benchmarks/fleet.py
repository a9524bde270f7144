"""How one cloud bears more edges: the same total load over 1, 2, 4 and 8 edges.

    python -m benchmarks.fleet --out benchmarks/results

Services run as processes on this machine, the load is `tandem load` with the arguments of the
fleet overlay's own Job. Runs are interleaved (1, 2, 4, 8, 1, 2, ...) and repeated; figures are
medians with the smallest and largest seen. It knows how to start services and what the load
generator reports; it measures nothing itself.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
import yaml

from cli.partition import SHIPPED_MODEL, exits_beside, make_bundles
from cli.processes import HOST, Service, free_ports, start, stop, wait_ready

ROOT = Path(__file__).parents[1]
OVERLAY = ROOT / "k8s" / "overlays" / "fleet"
# Options of the Job that say where the edges are and how its report leaves the pod.
OF_THE_JOB_ONLY = ("--edge=", "--discover", "--json=", "--wait-ready=")

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """What one number of edges came to: (median, smallest, largest) over the repeats."""

    edges: int
    tokens_per_second: tuple[float, float, float]
    cloud_milliseconds_per_token: tuple[float, float, float]
    inter_token_p95_milliseconds: tuple[float, float, float]
    first_token_p95_milliseconds: tuple[float, float, float]
    offload_ratio: tuple[float, float, float]
    # Smallest and largest among the edges of all repeats.
    offload_ratio_by_edge: tuple[float, float]
    errors: int


def main(
    *,
    out: Annotated[Path, typer.Option(help="Folder for fleet.json and fleet.md.")],
    edges: Annotated[str, typer.Option(help="Numbers of edges to try.")] = "1,2,4,8",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each number.")] = 3,
    duration: Annotated[float | None, typer.Option(help="Seconds a run; the Job's else.")] = None,
) -> None:
    """Run the load against every number of edges and write the table."""
    arguments = job_arguments()
    if duration is not None:
        arguments = _with(arguments, "--duration", str(duration))
    counts = [int(part) for part in edges.split(",")]
    reports: dict[int, list[Report]] = {count: [] for count in counts}
    with TemporaryDirectory() as folder:
        bundles = Path(folder)
        split, edge_depth = exits_beside(SHIPPED_MODEL)
        make_bundles(SHIPPED_MODEL, bundles, split=split, edge_depth=edge_depth)
        for repeat in range(repeats):
            for count in counts:
                with _services(bundles, count) as urls:
                    reports[count].append(_load(urls, arguments))
                sys.stderr.write(f"repeat {repeat + 1}/{repeats}, {count} edges: done\n")
    rows = [row(count, reports[count]) for count in counts]
    _write(out, arguments, rows, reports)


def job_arguments() -> list[str]:
    """The arguments of the fleet overlay's load Job, but for those that belong to its pod."""
    files = (file.read_text() for file in OVERLAY.glob("*.yaml"))
    documents = (each for text in files for each in yaml.safe_load_all(text))
    (job,) = (each for each in documents if each and each.get("kind") == "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return [each for each in container["args"] if not each.startswith(OF_THE_JOB_ONLY)]


def _with(arguments: Sequence[str], option: str, value: str) -> list[str]:
    """The arguments with another value for one option."""
    return [*(each for each in arguments if not each.startswith(f"{option}=")), f"{option}={value}"]


@contextmanager
def _services(bundles: Path, count: int) -> Iterator[list[str]]:
    """One cloud and `count` edges, each with one thread; the edges' URLs."""
    cloud_port, *edge_ports = free_ports(1 + count)
    logs = bundles / "logs"
    logs.mkdir(exist_ok=True)
    running: list[Service] = []
    try:
        running.append(start("cloud", _environment("CLOUD", bundles / "cloud", cloud_port), logs))
        wait_ready(running[0], f"http://{HOST}:{cloud_port}")
        for port in edge_ports:
            environment = _environment("EDGE", bundles / "edge", port)
            environment["TANDEM_EDGE_CLOUD_URL"] = f"http://{HOST}:{cloud_port}"
            running.append(start("edge", environment, logs))
        urls = [f"http://{HOST}:{port}" for port in edge_ports]
        for service, url in zip(running[1:], urls, strict=True):
            wait_ready(service, url)
        yield urls
    finally:
        stop(running)


def _environment(side: str, bundle: Path, port: int) -> dict[str, str]:
    return {
        f"TANDEM_{side}_BUNDLE": str(bundle),
        f"TANDEM_{side}_PORT": str(port),
        f"TANDEM_{side}_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _load(urls: Sequence[str], arguments: Sequence[str]) -> Report:
    named = [part for index, url in enumerate(urls) for part in ("--edge", f"edge-{index}={url}")]
    command = [sys.executable, "-m", "cli.load", *named, *arguments]
    # Failed requests are a figure of the table, not the end of the benchmark.
    command += ["--wait-ready", "60", "--json", "-", "--max-error-share", "1"]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout
    report: Report = json.loads(told)
    return report


def row(edges: int, reports: Sequence[Report]) -> Row:
    """The figures of one number of edges over its repeats."""
    totals = [report["total"] for report in reports]
    each_edge = [summary for report in reports for summary in report["edges"].values()]
    own = [e["offload_ratio"] for e in each_edge if e["offload_ratio"] is not None]
    return Row(
        edges=edges,
        tokens_per_second=_spread(each["tokens_per_second"] for each in totals),
        cloud_milliseconds_per_token=_spread(1e3 * e["cloud_seconds_per_token"] for e in totals),
        inter_token_p95_milliseconds=_spread(1e3 * e["inter_token_seconds"]["p95"] for e in totals),
        first_token_p95_milliseconds=_spread(
            1e3 * e["time_to_first_token_seconds"]["p95"] for e in totals
        ),
        offload_ratio=_spread(each["offload_ratio"] for each in totals),
        offload_ratio_by_edge=(round(min(own), 4), round(max(own), 4)),
        errors=sum(sum(each["errors"].values()) for each in totals),
    )


def _spread(values: Iterator[float]) -> tuple[float, float, float]:
    seen = sorted(values)
    return (round(statistics.median(seen), 4), round(seen[0], 4), round(seen[-1], 4))


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = (
        "edges", "tokens/s", "cloud ms/token", "p95 between tokens, ms", "p95 first token, ms",
        "offloaded", "offloaded by edge", "errors",
    )  # fmt: skip
    lines = [head, ("---:",) * len(head)]
    for each in rows:
        spreads = (
            _shown(each.tokens_per_second),
            _shown(each.cloud_milliseconds_per_token),
            _shown(each.inter_token_p95_milliseconds),
            _shown(each.first_token_p95_milliseconds),
        )
        low, high = each.offload_ratio_by_edge
        lines.append((
            str(each.edges), *spreads, f"{each.offload_ratio[0]:.1%}", f"{low:.1%} to {high:.1%}",
            str(each.errors),
        ))  # fmt: skip
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _shown(spread: tuple[float, float, float]) -> str:
    median, low, high = spread
    return f"{median:.4g} ({low:.4g} to {high:.4g})"


def _write(
    out: Path, arguments: Sequence[str], rows: Sequence[Row], reports: Mapping[int, list[Report]]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    told = {"when": when, "machine": machine, "load": list(arguments), "reports": dict(reports)}
    (out / "fleet.json").write_text(json.dumps(told, indent=1) + "\n")
    text = (
        f"# One cloud, more edges: the same total load\n\n"
        f"{when}, {machine}, every service with one thread, all on this machine; median (smallest "
        f"to largest) of {len(next(iter(reports.values())))} interleaved runs.\n"
        f"`tandem load {' '.join(arguments)}`, from the fleet overlay's Job.\n\n{table(rows)}"
    )
    (out / "fleet.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    typer.run(main)
