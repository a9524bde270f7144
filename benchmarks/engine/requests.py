"""`python -m benchmarks.engine.requests`: what a token costs beyond the model's computing, from
HTTP to HTTP, and where that goes.

Both services as processes, each on a core of its own and on loopback; one user, whose client shares
the cloud's core. Clocks around the seams of both (`clocked`) are on one machine's clock, so spans
of one process are laid over those of the other. What the model computes (the engine's steps of both
sides) is taken off every span it lies in.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from benchmarks import prompts
from benchmarks.stack import cores_here
from cli.partition import SHIPPED_MODEL
from cli.processes import HOST, Service, free_ports, stop, wait_ready
from shared.model import write_bundles
from shared.protocol.version import PATH_BLOCKS, PROTOCOL_VERSION

# Answers of each way of asking before those measured.
WARM_UP = 2
GENERATE = "/generate"
WAYS: dict[str, dict[str, Any]] = {
    "split": {"mode": "split"},
    "collaborative, all asked": {"mode": "collaborative", "threshold": 1.0},
    "collaborative, all kept": {"mode": "collaborative", "threshold": 0.0},
    "standalone": {"mode": "standalone"},
    "verified": {"mode": "verified"},
}


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds a request or token took beyond the model's computing, in all or in a part."""

    way: str
    what: str
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Spans:
    """What one service noted: spans by name, in order of their begin."""

    def __init__(self, path: Path) -> None:
        self._by_name: dict[str, list[tuple[float, float]]] = {}
        for line in path.read_text().splitlines():
            name, began, ended = json.loads(line)
            self._by_name.setdefault(name, []).append((began, ended))
        for spans in self._by_name.values():
            spans.sort()

    def within(self, name: str, began: float, ended: float) -> Sequence[tuple[float, float]]:
        """The spans of a name that begin and end between two moments."""
        spans = self._by_name.get(name, [])
        first = bisect_left(spans, (began, began))
        last = bisect_right(spans, (ended, ended))
        return [span for span in spans[first:last] if span[1] <= ended]

    def seconds(self, name: str, began: float, ended: float) -> float:
        """How much of the time between two moments lies in spans of a name."""
        spans = self._by_name.get(name, [])
        first = max(0, bisect_left(spans, (began, began)) - 1)
        last = bisect_right(spans, (ended, ended))
        return sum(max(0.0, min(e, ended) - max(b, began)) for b, e in spans[first:last])


def main(
    *,
    way: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(WAYS)}; all.")] = None,
    answers: Annotated[int, typer.Option(min=1, help="Of each way.")] = 6,
    tokens: Annotated[int, typer.Option(min=10, help="Of each answer.")] = 200,
    store: Annotated[str, typer.Option(help="URL of a Redis for the cloud; none: memory.")] = "",
    out: Annotated[Path | None, typer.Option(help="File for the rows, as JSON.")] = None,
) -> None:
    """Measure, and print the rows as a table."""
    with tempfile.TemporaryDirectory(prefix="tandem-requests-") as name:
        folder = Path(name)
        texts = [p.text for p in prompts.read(prompts.SHIPPED, SHIPPED_MODEL, count=8, longest=40)]
        asked: list[tuple[str, float, float]] = []
        with _services(folder, store) as url, httpx.Client(base_url=url, timeout=120) as http:
            for each in way or WAYS:
                for n in range(WARM_UP + answers):
                    began, ended = _ask(http, texts[n % len(texts)], WAYS[each], tokens)
                    if n >= WARM_UP:
                        asked.append((each, began, ended))
        edge, cloud = Spans(folder / "edge.jsonl"), Spans(folder / "cloud.jsonl")
        rows = [row for each in way or WAYS for row in _rows(each, asked, edge, cloud)]
    typer.echo(table(rows))
    if out is not None:
        out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    head = "| | what | count | p50 | p95 | p99 |\n|---|---|---:|---:|---:|---:|\n"
    return head + "\n".join(
        f"| {row.way} | {row.what} | {row.count} "
        f"| {row.p50_ms:.2f} ms | {row.p95_ms:.2f} ms | {row.p99_ms:.2f} ms |"
        for row in rows
    )


@contextmanager
def _services(folder: Path, store: str) -> Iterator[str]:
    """Both services, clocked; gives the edge's URL. The notes are there after the block."""
    write_bundles(
        SHIPPED_MODEL,
        folder,
        split=3,
        edge_depth=6,
        edge_format="fp32",
        cloud_format="fp32",
        protocol_version=PROTOCOL_VERSION,
    )
    cores = cores_here()
    edge_port, cloud_port = free_ports(2)
    cloud_url, edge_url = f"http://{HOST}:{cloud_port}", f"http://{HOST}:{edge_port}"
    os.sched_setaffinity(0, {cores.cloud})
    started: list[Service] = []
    try:
        more = {"PORT": str(cloud_port), "STORE_URL": store}
        started.append(_service("cloud", folder, cores.cloud, more))
        wait_ready(started[0], cloud_url)
        more = {"PORT": str(edge_port), "CLOUD_URL": cloud_url}
        started.append(_service("edge", folder, cores.edge, more))
        wait_ready(started[1], edge_url, cloud="reachable")
        yield edge_url
    finally:
        stop(started)


def _service(side: str, folder: Path, core: int, settings: dict[str, str]) -> Service:
    command = [sys.executable, "-m", "benchmarks.engine.clocked", side, "--core", str(core)]
    command += ["--notes", str(folder / f"{side}.jsonl")]
    settings = {"BUNDLE": str(folder / side), "THREADS": "1", **settings}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
    environment |= {"OMP_NUM_THREADS": "1"}
    environment |= {f"TANDEM_{side.upper()}_{k}": v for k, v in settings.items()}
    log = folder / f"{side}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    return Service(side, process, log)


def _ask(http: httpx.Client, text: str, how: dict[str, Any], tokens: int) -> tuple[float, float]:
    """Stream one answer; when it began and ended."""
    parameters = {"max_new_tokens": tokens, "min_new_tokens": tokens, **how}
    body = {"inputs": text, "parameters": parameters, "stream": True}
    began = time.perf_counter()
    with http.stream("POST", GENERATE, json=body) as response:
        response.raise_for_status()
        for _ in response.iter_raw():
            pass
    return began, time.perf_counter()


def _rows(
    way: str, asked: Sequence[tuple[str, float, float]], edge: Spans, cloud: Spans
) -> Iterator[Row]:
    times: dict[str, list[float]] = {}
    for which, began, ended in asked:
        if which == way:
            for what, seconds in _beyond(began, ended, edge, cloud):
                times.setdefault(what, []).append(1e3 * seconds)
    for what, found in times.items():
        cuts = statistics.quantiles(found, n=100)
        yield Row(way, what, len(found), statistics.median(found), cuts[94], cuts[98])


def _beyond(began: float, ended: float, edge: Spans, cloud: Spans) -> Iterator[tuple[str, float]]:
    """Per token and per request between two moments, the seconds beyond computing."""
    events = [at for at, _ in edge.within(f"event {GENERATE}", began, ended)]
    # The first token is the prompt's; the last event closes the stream.
    for before, after in pairwise(events[:-1]):
        computed = edge.seconds("step", before, after) + cloud.seconds("step", before, after)
        yield "token, HTTP to HTTP", after - before - computed
    for run in edge.within("run", began, ended):
        yield "edge: to the engine and back", _less(run, edge, "step")
    first = True
    for post in edge.within("post", began, ended):
        served = cloud.within(f"served {PATH_BLOCKS}", *post)
        if first or len(served) != 1:
            first = False
            continue
        yield from _parts(post, served[0], edge, cloud)


def _parts(
    post: tuple[float, float], served: tuple[float, float], edge: Spans, cloud: Spans
) -> Iterator[tuple[str, float]]:
    """A cloud request by its parts."""
    accepted = cloud.within("accept", *served)
    if len(accepted) != 1:
        return
    steps = cloud.seconds("step", *post)
    packing = edge.seconds("pack", *post) + edge.seconds("unpack", *post)
    messages = cloud.seconds("pack", *served) + cloud.seconds("unpack", *served)
    ran = cloud.seconds("run", *served)
    yield "request", post[1] - post[0] - steps
    yield "request: edge, messages", packing
    yield "request: client, there", served[0] - post[0] - edge.seconds("pack", *post)
    yield "request: client, back", post[1] - served[1] - edge.seconds("unpack", *post)
    yield "request: cloud, messages", messages
    yield "request: cloud, routes", _length(served) - _length(accepted[0]) - messages
    yield "request: cloud, completion", _length(accepted[0]) - ran
    yield "request: cloud, to the engine and back", ran - cloud.seconds("step", *accepted[0])


def _length(span: tuple[float, float]) -> float:
    return span[1] - span[0]


def _less(span: tuple[float, float], spans: Spans, name: str) -> float:
    return _length(span) - spans.seconds(name, *span)


if __name__ == "__main__":
    typer.run(main)
