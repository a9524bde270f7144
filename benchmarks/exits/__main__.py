"""`python -m benchmarks.exits`: what targets, chances and policies are worth, on traces."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.exits.page import page
from benchmarks.exits.plots import curves_figure, reliability_figure, targets_figure
from benchmarks.exits.splits import judge
from shared.exits.traces import read_traces
from training.calibration.guarantee import DELTA
from training.calibration.trace_arrays import as_arrays

_DPI = 110
_DECIMALS = 5


def main(
    traces: Annotated[Path, typer.Argument(help="Traces of one checkpoint: .jsonl, .jsonl.xz.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and pictures.")],
    seeds: Annotated[int, typer.Option(min=1, help="Splits by document.")] = 20,
    delta: Annotated[
        float, typer.Option(min=0, max=1, help="Chance that a target is not held.")
    ] = DELTA,
) -> None:
    """Split the documents, fit on one half, judge on the other, and print every seed."""
    found_traces = list(read_traces(traces))
    texts = as_arrays(found_traces)
    found = []
    for seed in range(seeds):
        found.append(judge(texts, seed, delta))
        typer.echo(f"seed {seed} of {seeds}", err=True)
    about = {
        "command": f"python -m benchmarks.exits {traces.name} --seeds {seeds} --delta {delta:g}",
        "model_fingerprint": found_traces[0].model_fingerprint,
        "exits": list(texts.exits),
        "documents": len(texts.lengths),
        "tokens": len(texts.whole),
        "sources": {source: texts.sources.count(source) for source in sorted(set(texts.sources))},
        "delta": delta,
    }
    told = page(found, about)
    typer.echo(told)
    out.mkdir(parents=True, exist_ok=True)
    content = {"format": 1, "about": about, "seeds": _rounded(found)}
    (out / "latest.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    (out / "latest.md").write_text(told)
    halves = f"{seeds} splits by document, judged half"
    for name, figure in (
        ("reliability", reliability_figure(found, f"What exits say of themselves ({halves})")),
        ("policies", curves_figure(found, f"What each policy offloads (mean of {halves})")),
        ("targets", targets_figure(found, f"Targets and what was realised ({halves})")),
    ):
        figure.savefig(out / f"{name}.png", dpi=_DPI, metadata={"Software": None})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value


if __name__ == "__main__":
    typer.run(main)
