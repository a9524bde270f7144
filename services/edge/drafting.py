"""Running a session's tree of drafts through the edge's layers, and ranking what may follow each.

All rows of all sessions in one ragged forward over [0, e); the states at the split are read on the
way up, and the exit at e ranks the candidates. Knows neither network nor which drafts are worth
running.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shared.decoding.sampling import PrefixState, Ranking, SamplingParameters, rank
from shared.errors import ComputeError
from shared.model import KVCache, Lineage, Segment, SpanModel, Tap, Tree, is_line
from shared.runtime.work import Failed


@dataclass(frozen=True, slots=True)
class Ask:
    """Rank what may stand at `position`, after the tokens `prefix` folds."""

    position: int
    prefix: PrefixState


@dataclass(frozen=True, slots=True)
class Ranker:
    """How a session's candidates are ranked; `count` of them."""

    parameters: SamplingParameters
    seed: int
    count: int


@dataclass(frozen=True, slots=True)
class Drafted:
    """The states [T, H] the rows have at the split, in the model's dtype, on the CPU, and per row
    what may follow it (None where it was not asked).
    """

    states: Tensor
    rankings: Sequence[Ranking | None]


@dataclass(slots=True)
class Drafting:
    """New rows `ids` of one session, whose KV first shrinks (`KVCache.keep(base, keep)`).

    From slot `line` on every slot, the new ones included, has its parent in `parents`, counted from
    `line`; -1 is the line before it. Where nobody waits for it any more, `wanted` is set to false
    from any thread: the step then ends early, and the KV stays as it was.
    """

    cache: KVCache
    ids: Sequence[int]
    base: int
    keep: Sequence[int]
    line: int
    parents: Sequence[int]
    asks: Sequence[Ask | None]
    ranker: Ranker
    wanted: bool = True
    shrunk: bool = False
    done: int = 0
    charge: int = 1
    lineage: Lineage | None = None
    states: list[Tensor] = field(default_factory=list)
    rankings: list[Ranking | None] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows still to run."""
        return len(self.ids) - self.done


def step(
    model: SpanModel, split: int, batch: Sequence[tuple[Drafting, int]]
) -> list[Drafted | Failed | None]:
    """Run each work by its allotted rows; see `shared.runtime.work.Engine`.

    Raises:
        OutOfMemory: the rows do not fit the KV budget; nothing was run.
        Abandoned: no work was wanted any more.
    """
    segments = [_segment(model, split, work, rows) for work, rows in batch]
    tops = model.forward(segments)
    asked = [
        [n for n, ask in enumerate(work.asks[work.done : work.done + rows]) if ask is not None]
        for work, rows in batch
    ]
    wanted = [top[rows] for top, rows in zip(tops, asked, strict=True)]
    depth = model.span.stop
    logits = model.exit_logits(depth, torch.cat(wanted)) if any(asked) else torch.empty(0)
    parts = logits.split([len(rows) for rows in asked])
    outcomes = []
    for (work, rows), top, places, part in zip(batch, tops, asked, parts, strict=True):
        if depth == split:
            work.states.append(top)
        outcomes.append(_advance(work, rows, places, part, depth))
    return outcomes


def _segment(model: SpanModel, split: int, work: Drafting, rows: int) -> Segment:
    if not work.shrunk:
        work.cache.keep(work.base, work.keep)
        work.shrunk = True
    first, stop = work.cache.length(0), work.done + rows
    tap = None
    if split < model.span.stop:
        tap = Tap(split, lambda states: _kept(work.states, states))
    return Segment(
        cache=work.cache,
        start=0,
        stop=model.span.stop,
        position=first,
        ids=torch.tensor(work.ids[work.done : stop], device=model.device),
        states=None,
        tree=None if is_line(work.parents) else _tree(work, first, rows),
        tap=tap,
        wanted=lambda: work.wanted,
    )


def _kept(kept: list[Tensor], states: Tensor) -> Tensor:
    kept.append(states)
    return states


def _tree(work: Drafting, first: int, rows: int) -> Tree:
    if work.lineage is None:
        work.lineage = Lineage.of(work.parents)
    place, end = first - work.line, first - work.line + rows
    return Tree(
        base=work.line,
        positions=tuple(work.line + depth for depth in work.lineage.depths[:end]),
        visible=work.lineage.visible[place:end, :end],
    )


def _advance(
    work: Drafting, rows: int, places: Sequence[int], logits: Tensor, depth: int
) -> Drafted | Failed | None:
    found: list[Ranking | None] = [None] * rows
    try:
        for place, row in zip(places, logits, strict=True):
            ask = work.asks[work.done + place]
            assert ask is not None
            found[place] = _rank(work.ranker, ask, row)
    except ComputeError as error:
        # One session's bad numbers must not fail its neighbours in the batch.
        return Failed(error)
    work.rankings += found
    work.done += rows
    work.charge = rows * depth
    return None if work.rows else Drafted(torch.cat(work.states).cpu(), work.rankings)


def _rank(ranker: Ranker, ask: Ask, logits: Tensor) -> Ranking:
    return rank(
        logits,
        ask.prefix,
        ranker.parameters,
        seed=ranker.seed,
        index=0,
        position=ask.position,
        count=ranker.count,
    )
