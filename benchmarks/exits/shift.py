"""`python -m benchmarks.exits.shift TRACES ...`: calibrated on one kind of text, serving another.

Chances and thresholds are fitted on the documents of one source and never change; documents of
another are served, each a request, drawn with replacement in an order of each seed. The controller
has the labels a service would have: kept tokens before an offload, and tails of requests that an
audit chose. Told is the disagreement of all tokens, which it never sees.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path as FilePath
from random import Random
from statistics import mean
from typing import Annotated

import numpy as np
import typer

from benchmarks.exits.splits import TARGETS
from shared.exits.audit import Audit, Audited
from shared.exits.controller import Controller
from shared.exits.path import Path, Point
from shared.exits.traces import Trace, read_traces
from training.calibration.agreement import chances_of, fit_exits
from training.calibration.threshold_paths import kept_at, threshold_path, wrong_at
from training.calibration.trace_arrays import Numbers, Texts, as_arrays

LEVELS = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
SHARE = 0.02
INTERVAL_SHARES, INTERVAL_TOKENS = (0.02, 0.1), 10_000
WITHIN = 1.25


@dataclass(frozen=True, slots=True)
class Shifted:
    """One seed: disagreement over the first tokens and after them, and what is offloaded there;
    unmoved is the same with the thresholds as calibrated.
    """

    seed: int
    first: float
    after: float
    offloaded: float
    unmoved_after: float
    unmoved_offloaded: float
    level: float


@dataclass(slots=True)
class Served:
    """Tokens served, and of these wrong and offloaded ones."""

    tokens: int = 0
    wrong: int = 0
    offloaded: int = 0

    @property
    def disagreement(self) -> float:
        """The share of wrong tokens."""
        return self.wrong / self.tokens


def calibrated(texts: Texts) -> tuple[Path, Callable[[Texts], Numbers]]:
    """The path of thresholds that some text gives, and the chances of any."""
    fits = fit_exits(texts)
    found = threshold_path(chances_of(fits, texts), texts.agrees, LEVELS)
    points = [
        Point(float(level), dict(zip(texts.exits, thresholds, strict=True)))
        for level, thresholds in zip(LEVELS, found, strict=True)
    ]
    return Path(points), lambda of: chances_of(fits, of)


@dataclass(slots=True)
class Stories:
    """Documents to be served: chances [E, n] and agreement [E, n] of each; a `share` of them is
    audited.
    """

    documents: Sequence[tuple[Numbers, np.ndarray]]
    exits: Sequence[int]
    share: float = SHARE

    def serve(
        self, seed: int, thresholds_of: Callable[[], Mapping[int, float]]
    ) -> Iterator["Text"]:
        """Serve documents in a random order, without end, under thresholds that may change."""
        draw = Random(seed)
        while True:
            chances, agrees = draw.choice(self.documents)
            thresholds = thresholds_of()
            kept = kept_at(chances, [thresholds[layer] for layer in self.exits])
            wrong = wrong_at(agrees, kept)
            asked = np.flatnonzero(kept == len(chances))
            end = int(asked[-1]) + 1 if len(asked) else 0
            chosen = draw.random() < self.share
            tail_wrong = int(wrong[end:].sum())
            seen = Audited(
                tokens=len(kept),
                judged=end - len(asked),
                wrong=int(wrong[:end].sum()),
                tail=len(kept) - end,
                tail_wrong=tail_wrong if chosen else None,
                share=self.share,
            )
            yield Text(seen, len(asked), int(wrong.sum()))


@dataclass(frozen=True, slots=True)
class Text:
    """A served document: what the service sees of it, tokens offloaded, and wrong ones in truth."""

    seen: Audited
    offloaded: int
    wrong: int


def run(
    stories: Stories, path: Path, target: float, *, seed: int, first: int, after: int
) -> Shifted:
    """Serve with the controller, and the same documents without."""
    parts, level = [], target
    for held in (True, False):
        controller = Controller()
        texts = stories.serve(
            seed,
            lambda held=held, of=controller: path.held(  # type: ignore[misc]
                target, of.level(target) if held else target
            ),
        )
        for tokens in (first, after):
            served = Served()
            while served.tokens < tokens:
                text = next(texts)
                served.tokens += text.seen.tokens
                served.wrong += text.wrong
                served.offloaded += text.offloaded
                controller.take(text.seen, target)
            parts.append(served)
        level = controller.level(target) if held else level
    began, now, _, unmoved = parts
    return Shifted(
        seed,
        began.disagreement,
        now.disagreement,
        now.offloaded / now.tokens,
        unmoved.disagreement,
        unmoved.offloaded / unmoved.tokens,
        level,
    )


def coverage(stories: Stories, path: Path, target: float, *, runs: int, tokens: int) -> str:
    """How often an audit's interval holds the disagreement of so many tokens, and its mean width,
    with a target's thresholds as calibrated.
    """
    held, widths = 0, []
    for seed in range(runs):
        audit, served = Audit(), Served()
        for text in stories.serve(seed, lambda: path.at(target)):
            audit.take(text.seen)
            served.tokens += text.seen.tokens
            served.wrong += text.wrong
            if served.tokens >= tokens:
                break
        estimate = audit.estimate()
        if estimate is None:
            continue
        held += estimate.low <= served.disagreement <= estimate.high
        widths.append(estimate.high - estimate.low)
    return (
        f"Target {target:g}, audits of {stories.share:g}: after {tokens} tokens the interval holds "
        f"the truth in {held} of {runs} runs, and is {mean(widths):.4f} wide."
    )


def main(
    traces: Annotated[list[FilePath], typer.Argument(help="Traces: .jsonl, .jsonl.xz.")],
    *,
    calibrated_on: Annotated[str, typer.Option(help="Source to calibrate on.")] = "sgd_dev",
    serving: Annotated[str, typer.Option(help="Source to serve.")] = "fairytaleqa_test",
    seeds: Annotated[int, typer.Option(min=1)] = 20,
    first: Annotated[int, typer.Option(min=1, help="Tokens to get used to it.")] = 2000,
    after: Annotated[int, typer.Option(min=1, help="Tokens that are judged.")] = 8000,
    intervals: Annotated[int, typer.Option(min=0, help="Runs to try an audit's interval.")] = 0,
    out: Annotated[FilePath | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Print, for each target and seed, how often tokens are not the full model's."""
    found = [trace for each in traces for trace in read_traces(each)]
    known, other = (_of(found, source) for source in (calibrated_on, serving))
    path, chances = calibrated(known)
    stories = _stories(other, chances(other))
    figures = {}
    typer.echo(
        f"Calibrated on {len(known.lengths)} documents ({len(known.whole)} tokens) of "
        f"{calibrated_on}, serving {len(other.lengths)} ({len(other.whole)}) of {serving}, audits "
        f"of {SHARE:g}.\n"
    )
    for target in TARGETS:
        rows = [
            run(stories, path, target, seed=seed, first=first, after=after) for seed in range(seeds)
        ]
        figures[f"{target:g}"] = [asdict(row) for row in rows]
        _tell(target, rows, first, after)
    if intervals:
        for target, share in product(TARGETS, INTERVAL_SHARES):
            audited = replace(stories, share=share)
            typer.echo(coverage(audited, path, target, runs=intervals, tokens=INTERVAL_TOKENS))
    if out is not None:
        out.write_text(json.dumps({"format": 1, "targets": figures}, indent=1) + "\n")


def _tell(target: float, rows: Sequence[Shifted], first: int, after: int) -> None:
    held = sum(row.after <= WITHIN * target for row in rows)
    typer.echo(f"Target {target:g}: within {WITHIN:g} times of it in {held} of {len(rows)} seeds.")
    typer.echo(f"| seed | first {first} | next {after} | offloaded | unmoved | offloaded | level |")
    typer.echo("|---|---|---|---|---|---|---|")
    for row in rows:
        typer.echo(
            f"| {row.seed} | {row.first:.4f} | {row.after:.4f} | {row.offloaded:.3f} "
            f"| {row.unmoved_after:.4f} | {row.unmoved_offloaded:.3f} | {row.level:.4f} |"
        )
    typer.echo(
        f"| mean | {mean(r.first for r in rows):.4f} | {mean(r.after for r in rows):.4f} "
        f"| {mean(r.offloaded for r in rows):.3f} | {mean(r.unmoved_after for r in rows):.4f} "
        f"| {mean(r.unmoved_offloaded for r in rows):.3f} | {mean(r.level for r in rows):.4f} |\n"
    )


def _of(traces: Sequence[Trace], source: str) -> Texts:
    chosen = [trace for trace in traces if trace.source == source]
    if not chosen:
        raise typer.BadParameter(f"no document of {source} in these traces")
    return as_arrays(chosen)


def _stories(texts: Texts, chances: Numbers) -> Stories:
    ends = np.cumsum(texts.lengths)
    starts = ends - texts.lengths
    return Stories(
        [
            (chances[:, start:end], texts.agrees[:, start:end])
            for start, end in zip(starts, ends, strict=True)
        ],
        texts.exits,
    )


if __name__ == "__main__":
    typer.run(main)
