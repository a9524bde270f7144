"""`python -m benchmarks.virtual`: verified mode against cloud-only in virtual time, as a table.

Minutes on a busy machine, and the same figures every time: what the algorithm makes of the price
list and the network, without the software's own time.
"""

import logging
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import prompts
from benchmarks.virtual.run import Answered, Deployed, answers
from cli.partition import SHIPPED_MODEL, exits_beside
from shared.model import write_bundles
from shared.protocol.version import PROTOCOL_VERSION

CHOSEN: Mapping[str, Mapping[str, Any]] = {
    "greedy": {},
    "T 0.8, top-p 0.95": {"temperature": 0.8, "top_p": 0.95, "seed": 5},
}


@dataclass(frozen=True, slots=True)
class Wire:
    """The network of a column."""

    rtt_ms: float
    mbit: float


@dataclass(frozen=True, slots=True)
class Way:
    """A row: the edge's settings, how far below the last exit the cloud takes over (None: the
    shipped split), and parameters of the request.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    below: int | None = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    drafter: bool = True


_BLOCK = {"draft_plan": "draft", "draft_width": 1, "draft_doubt": 0.2}
WAYS: Mapping[str, Way] = {
    "blocks": Way({**_BLOCK, "draft_longest": 10, "draft_most": 10}),
    "chain": Way({"draft_plan": "draft", "draft_width": 1}),
    "tree": Way({"draft_plan": "draft"}),
    "tree, not distilled": Way({"draft_plan": "draft"}, drafter=False),
    "tree, split at a quarter": Way({"draft_plan": "draft"}, below=None),
    "tree, split at a quarter, its exit where sure": Way(
        {"draft_plan": "draft", "draft_sure": 0.95}, below=None
    ),
    "tree, ids": Way({"draft_plan": "draft"}, parameters={"verify": "ids"}),
    "tree + run-ahead 1": Way({"draft_plan": "assist", "draft_ahead": 1}),
    "tree + run-ahead 2": Way({"draft_plan": "assist", "draft_ahead": 2}),
    "race": Way({"draft_plan": "race"}),
    "auto, cloud's price 0": Way({"cloud_price": 0}),
    "auto, cloud's price 1": Way(),
}


def main(
    *,
    delay: Annotated[list[float] | None, typer.Option(help="Round trips, ms.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Prompts.")] = 6,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of every answer.")] = 60,
    way: Annotated[list[str] | None, typer.Option(help="Only these rows.")] = None,
    mbit: Annotated[float, typer.Option(min=0.1, help="Mbit/s each way.")] = 30.0,
) -> None:
    """Print, per way of choosing tokens, total time and cloud seconds over cloud-only's."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    delays = delay or [3.0, 20.0, 50.0, 100.0, 300.0]
    texts = [p.text for p in prompts.read(prompts.SHIPPED, SHIPPED_MODEL, count=count, longest=160)]
    with tempfile.TemporaryDirectory(prefix="tandem-virtual-") as name:
        for chosen, parameters in CHOSEN.items():
            body = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, **parameters}
            links = [Wire(delay, mbit) for delay in delays]
            _table(Path(name), chosen, _asked(texts, body), links, way or list(WAYS))


def _asked(texts: Sequence[str], parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"inputs": text, "parameters": dict(parameters)} for text in texts]


def _table(
    folder: Path,
    chosen: str,
    asked: Sequence[Mapping[str, Any]],
    links: Sequence[Wire],
    ways: Sequence[str],
) -> None:
    columns = " | ".join(f"{link.rtt_ms:g} ms" for link in links)
    mbit, last_ms = links[-1].mbit, links[-1].rtt_ms
    typer.echo(f"\n{chosen}: time / cloud-only (cloud seconds / cloud-only), {mbit:g} Mbit/s\n")
    typer.echo(f"| | {columns} | texts equal | accepted | p95 between tokens at {last_ms:g} ms |")
    typer.echo("|---" * (len(links) + 4) + "|")
    split, depth = exits_beside(SHIPPED_MODEL)
    whole = _bundles(folder, split, depth, drafter=True)
    base = {
        link: answers(
            Deployed(whole / "edge", whole / "cloud", link.rtt_ms, link.mbit),
            _in(asked, mode="cloud"),
        )
        for link in links
    }
    for name in ways:
        way = WAYS[name]
        cut = split if way.below is None else depth - way.below
        edge = _bundles(folder, cut, depth, drafter=way.drafter) / "edge"
        found = {
            link: answers(
                Deployed(edge, whole / "cloud", link.rtt_ms, link.mbit, settings=way.settings),
                _in(asked, mode="verified", **way.parameters),
            )
            for link in links
        }
        cells = [
            f"{_seconds(found[d]) / _seconds(base[d]):.2f} "
            f"({_cloud(found[d]) / _cloud(base[d]):.2f})"
            for d in links
        ]
        equal = sum(
            _ids(one) == _ids(other)
            for d in links
            for one, other in zip(found[d], base[d], strict=True)
        )
        last = found[links[-1]]
        accepted = statistics.fmean(_usage(a, "accepted_tokens") for a in last)
        share = accepted / statistics.fmean(_usage(a, "completion_tokens") for a in last)
        gaps = sorted(b - a for each in last for a, b in pairwise(each.arrivals))
        typer.echo(
            f"| {name} | {' | '.join(cells)} | {equal} of {len(asked) * len(links)} "
            f"| {share:.2f} | {gaps[int(0.95 * len(gaps))] * 1e3:.0f} ms |"
        )


def _in(asked: Sequence[Mapping[str, Any]], **parameters: Any) -> list[dict[str, Any]]:
    return [{**each, "parameters": {**each["parameters"], **parameters}} for each in asked]


def _bundles(folder: Path, split: int, depth: int, *, drafter: bool) -> Path:
    out = folder / f"{split}-{depth}{'' if drafter else '-plain'}"
    if not out.exists():
        write_bundles(
            SHIPPED_MODEL,
            out,
            split=split,
            edge_depth=depth,
            edge_format="fp32",
            cloud_format="fp32",
            protocol_version=PROTOCOL_VERSION,
            use_drafter=drafter,
        )
    return out


def _seconds(found: Sequence[Answered]) -> float:
    return sum(each.seconds for each in found)


def _cloud(found: Sequence[Answered]) -> float:
    return sum(_usage(each, "cloud_compute_seconds") for each in found)


def _usage(answered: Answered, key: str) -> float:
    return float(answered.details["usage"][key])


def _ids(answered: Answered) -> list[int]:
    return [token["id"] for token in answered.details["tokens"]]


if __name__ == "__main__":
    typer.run(main)
