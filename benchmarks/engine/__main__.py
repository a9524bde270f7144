"""`python -m benchmarks.engine`: what a decode step takes, over the bare matrix products of the
same rows in the same run, and over a step of transformers' `generate`.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.engine.decode import Decoding
from benchmarks.engine.floor import Floor
from benchmarks.engine.models import FORMATS, random_llama, whole_model
from benchmarks.peers.peer import Length
from benchmarks.peers.transformers_peer import PLAIN, TransformersPeer
from cli.partition import SHIPPED_MODEL
from shared.model import SpanModel

RESULTS = Path(__file__).parents[1] / "results" / "engine"
WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A model in a format, so many sessions at a context: seconds of a step, median and 95th
    percentile, and the medians of its ratios to the bare products beside it: torch's plain ones
    and the model's own.
    """

    model: str
    compute_format: str
    sessions: int
    context: int
    step_s: float
    step_p95_s: float
    plain_s: float
    own_s: float
    over_plain: float
    over_own: float
    generate_s: float | None


def main(
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="`shipped`, `random` (200 M); both if none is named.")
    ] = None,
    compute_format: Annotated[
        list[str] | None, typer.Option("--format", help=f"Of {', '.join(FORMATS)}; all.")
    ] = None,
    sessions: Annotated[list[int] | None, typer.Option(help="Sessions a step.")] = None,
    context: Annotated[list[int] | None, typer.Option(help="Rows each has cached.")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Steps measured of each.")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="Of the linear algebra.")] = 2,
    add: Annotated[
        bool, typer.Option(help="Keep the rows of earlier runs that are not measured again.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for rows and table.")] = RESULTS,
) -> None:
    """Measure; steps, floors and `generate` of a row take turns, so a row stands for itself."""
    torch.set_num_threads(threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tandem-engine-") as name:
        for each in model or ["shipped", "random"]:
            folder = Path(name) / each
            checkpoint = SHIPPED_MODEL if each == "shipped" else random_llama(folder)
            for kind in compute_format or FORMATS:
                span = whole_model(checkpoint, folder / "bundles", kind)
                peer = _peer(checkpoint, kind)
                for count in sessions or [1, 4, 16]:
                    for length in context or [128, 1024]:
                        row = _row(span, peer, (each, kind, count, length), repeats)
                        rows.append(row)
                        sys.stderr.write(f"{_line(row)}\n")
    if add:
        rows = _joined(out / "latest.json", rows)
    out.mkdir(parents=True, exist_ok=True)
    (out / "latest.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (out / "latest.md").write_text(table(rows, threads))


def table(rows: Sequence[Row], threads: int) -> str:
    """The rows as a page."""
    head = f"""# Engine steps

`python -m benchmarks.engine`, torch {torch.__version__}, {threads} threads; medians, steps and floors of a row in turn (`--add` puts rows of several runs together).
Products are every linear layer once, on as many rows and nothing else: torch's plain ones in the model's dtype, layer by layer, and the model's own (packed or quantized, those of the same rows at once).

| model | format | sessions | context | step | p95 | over plain products | over its own products | `generate` | step over `generate` |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
"""  # noqa: E501
    return head + "\n".join(map(_line, rows)) + "\n"


def _joined(path: Path, fresh: Sequence[Row]) -> list[Row]:
    """The rows of a file, with fresh ones in the place of those that are of the same, in order."""
    rows = [*(Row(**each) for each in json.loads(path.read_text())), *fresh]
    found = {(row.model, row.compute_format, row.sessions, row.context): row for row in rows}
    return sorted(found.values(), key=_place)


def _place(row: Row) -> tuple[bool, int, int, int]:
    kind = FORMATS.index(row.compute_format)
    return row.model != "shipped", kind, row.sessions, row.context


def _line(row: Row) -> str:
    beside = "" if row.generate_s is None else f"{1e3 * row.generate_s:.2f} ms"
    ratio = "" if row.generate_s is None else f"{row.step_s / row.generate_s:.2f}"
    return (
        f"| {row.model} | {row.compute_format} | {row.sessions} | {row.context} "
        f"| {1e3 * row.step_s:.2f} ms | {1e3 * row.step_p95_s:.2f} ms | {row.over_plain:.2f} "
        f"| {row.over_own:.2f} | {beside} | {ratio} |"
    )


def _peer(checkpoint: Path, compute_format: str) -> TransformersPeer | None:
    """transformers beside it, where it computes in that format."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    dtype = dtypes.get(compute_format)
    if dtype is None:
        return None
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype)
    model.generation_config = GenerationConfig()  # nothing ends a text
    return TransformersPeer(PLAIN, 0, model)


def _row(
    span: SpanModel,
    peer: TransformersPeer | None,
    place: tuple[str, str, int, int],
    repeats: int,
) -> Row:
    name, compute_format, sessions, context = place
    decoding, floor = Decoding.of(span, sessions, context), Floor(span, sessions)
    steps, plain, own = [], [], []
    try:
        for _ in range(WARM_UP + repeats):
            steps.append(_seconds(decoding.step))
            plain.append(_seconds(lambda: floor.plain(sessions)))
            own.append(_seconds(lambda: floor.own(sessions)))
    finally:
        decoding.close()
    steps, plain, own = steps[WARM_UP:], plain[WARM_UP:], own[WARM_UP:]
    beside: Sequence[float] = ()
    if peer is not None and sessions == 1:
        beside = peer.answer(range(5, 5 + context), Length(repeats + 1, ())).gaps_s
    return Row(
        model=name,
        compute_format=compute_format,
        sessions=sessions,
        context=context,
        step_s=statistics.median(steps),
        step_p95_s=statistics.quantiles(steps, n=20)[-1],
        plain_s=statistics.median(plain),
        own_s=statistics.median(own),
        over_plain=statistics.median(a / b for a, b in zip(steps, plain, strict=True)),
        over_own=statistics.median(a / b for a, b in zip(steps, own, strict=True)),
        generate_s=statistics.median(beside) if beside else None,
    )


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)
