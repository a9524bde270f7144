"""Running a session's tree of drafts through the edge's layers, and ranking what may follow each.

All rows of all sessions go through [0, s) in one ragged forward; the exit at s ranks their
candidates, and where it is sure of the likeliest one that is all. Otherwise they go on through
[s, e), with every row that was left behind before, and the exit at e ranks them. Knows neither
network nor which drafts are worth running.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.edge.state import EdgeState, forward
from shared.decoding.sampling import PrefixState, Ranking, SamplingParameters, rank
from shared.errors import ComputeError
from shared.model import Lineage, Segment, SpanModel, Tree, is_line
from shared.runtime.work import Claim, Failed

# Rows a session may leave behind before they are brought up whatever the exit at s says: what they
# cost then is a step's, and their states take memory.
MOST_BEHIND = 64


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
    """The states [T, H] the rows have at the split, in the model's dtype, on the CPU; per row what
    may follow it (None where it was not asked), and the layer of the exit that says so.

    `whole` where they, and they alone, went through all the edge's layers.
    """

    states: Tensor
    rankings: Sequence[Ranking | None]
    exits: Sequence[int]
    whole: bool


@dataclass(slots=True)
class Drafting:
    """New rows `ids` of one session, whose rows first shrink (`EdgeState.keep(base, keep)`).

    From slot `line` on every slot, the new ones included, has its parent in `parents`, counted from
    `line`; -1 is the line before it. Where nobody waits for it any more, `wanted` is set to false
    from any thread: the step then ends early, and what it has run is dropped by the next `keep`.

    Args:
        sure: the lead from which the exit at the split is good enough for the likeliest row.
    """

    state: EdgeState
    ids: Sequence[int]
    base: int
    keep: Sequence[int]
    line: int
    parents: Sequence[int]
    asks: Sequence[Ask | None]
    ranker: Ranker
    sure: float = math.inf
    wanted: bool = True
    shrunk: bool = False
    done: int = 0
    charge: int = 1
    whole: bool = True
    lineage: Lineage | None = None
    states: list[Tensor] = field(default_factory=list)
    rankings: list[Ranking | None] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)

    @property
    def claim(self) -> Claim:
        """The session's."""
        return self.state.claim

    @property
    def rows(self) -> int:
        """Rows still to run."""
        return len(self.ids) - self.done


@dataclass(slots=True, eq=False)
class _Part:
    """A work's rows in one step: `top` [T, H] are their states in front of `layer`, where those at
    `places` are asked.
    """

    work: Drafting
    rows: int
    places: Sequence[int]
    top: Tensor
    layer: int = 0
    rankings: list[Ranking | None] = field(default_factory=list)
    failed: Failed | None = None

    @property
    def may_rest(self) -> bool:
        """Whether what the exit at the split says can be enough."""
        return self.work.sure < math.inf and self.work.state.left_behind <= MOST_BEHIND

    @property
    def rests(self) -> bool:
        """Whether it is: it goes by the likeliest row, the first asked."""
        if not self.may_rest or not self.places:
            return self.may_rest
        ranking = self.rankings[self.places[0]]
        return ranking is not None and ranking.lead >= self.work.sure


def step(
    model: SpanModel, split: int, batch: Sequence[tuple[Drafting, int]]
) -> list[Drafted | Failed | None]:
    """Run each work by its allotted rows; see `shared.runtime.work.Engine`."""
    parts = [_part(work, rows) for work, rows in batch]
    _run_lower(model, parts, split)
    if model.span.stop == split:
        _rank(model, parts)
    else:
        _rank(model, [part for part in parts if part.may_rest])
        deep = [part for part in parts if part.failed is None and not part.rests]
        _run_upper(model, deep, split)
        _rank(model, deep)
    return [_outcome(part, model.span.stop) for part in parts]


def _part(work: Drafting, rows: int) -> _Part:
    if not work.shrunk:
        work.state.keep(work.base, work.keep)
        work.shrunk = True
    work.charge = 0
    asks = work.asks[work.done : work.done + rows]
    return _Part(work, rows, [n for n, ask in enumerate(asks) if ask is not None], torch.empty(0))


def _run_lower(model: SpanModel, parts: Sequence[_Part], split: int) -> None:
    """Run the new rows through [0, s); where there are layers above, they are left behind."""
    segments = []
    for part in parts:
        work = part.work
        first, ids = work.state.cache.length(0), work.ids[work.done : work.done + part.rows]
        given = torch.tensor(ids, device=model.device)
        segments.append(_segment(work, 0, split, first, part.rows, ids=given))
    for part, top in zip(parts, forward(model, segments), strict=True):
        if isinstance(top, Failed):
            part.failed = top
            continue
        part.top, part.layer = top, split
        part.work.charge += part.rows * split
        part.work.states.append(top)
        if model.span.stop > split:
            part.work.state.behind.append(top)


def _run_upper(model: SpanModel, parts: Sequence[_Part], split: int) -> None:
    """Run all rows left behind through [s, e)."""
    depth = model.span.stop
    segments = []
    for part in parts:
        states = torch.cat(part.work.state.behind)
        first = part.work.state.cache.length(split)
        segments.append(_segment(part.work, split, depth, first, len(states), states=states))
    for part, segment, top in zip(parts, segments, forward(model, segments), strict=True):
        if isinstance(top, Failed):
            part.failed = top
            continue
        part.top, part.layer = top[-part.rows :], depth
        part.work.charge += segment.rows * (depth - split)
        part.work.whole = part.work.whole and segment.rows == part.rows
        part.work.state.behind.clear()


def _segment(
    work: Drafting,
    start: int,
    stop: int,
    first: int,
    rows: int,
    *,
    ids: Tensor | None = None,
    states: Tensor | None = None,
) -> Segment:
    return Segment(
        cache=work.state.cache,
        start=start,
        stop=stop,
        position=first,
        ids=ids,
        states=states,
        tree=None if is_line(work.parents) else _tree(work, first, rows),
        wanted=lambda: work.wanted,
    )


def _tree(work: Drafting, first: int, rows: int) -> Tree:
    """What the rows at slots [first, first + rows) see."""
    if work.lineage is None:
        work.lineage = Lineage.of(work.parents)
    lineage, base = work.lineage, work.line
    if first < base:
        # Decided rows that were left behind: a line on which the tree stands.
        before = base - first
        line, base = range(-1, before - 1), first
        lineage = Lineage.of([*line, *(before + parent for parent in work.parents)])
    place, end = first - base, first - base + rows
    return Tree(
        base=base,
        positions=tuple(base + depth for depth in lineage.depths[:end]),
        visible=lineage.visible[place:end, :end],
    )


def _rank(model: SpanModel, parts: Sequence[_Part]) -> None:
    """Ask the exit each part has come to."""
    parts = [part for part in parts if part.failed is None]
    asked = [part.top[part.places] for part in parts]
    if not any(map(len, asked)):
        for part in parts:
            part.rankings = [None] * part.rows
        return
    (layer,) = {part.layer for part in parts}
    logits = model.exit_logits(layer, torch.cat(asked)).split([len(rows) for rows in asked])
    for part, said in zip(parts, logits, strict=True):
        part.rankings = [None] * part.rows
        try:
            for place, row in zip(part.places, said, strict=True):
                part.rankings[place] = _ranking(part.work, part.work.done + place, row)
        except ComputeError as error:
            # One session's bad numbers must not fail its neighbours in the batch.
            part.failed = Failed(error)


def _ranking(work: Drafting, place: int, logits: Tensor) -> Ranking:
    ask, ranker = work.asks[place], work.ranker
    assert ask is not None
    return rank(
        logits,
        ask.prefix,
        ranker.parameters,
        seed=ranker.seed,
        index=0,
        position=ask.position,
        count=ranker.count,
    )


def _outcome(part: _Part, depth: int) -> Drafted | Failed | None:
    if part.failed is not None:
        return part.failed
    work = part.work
    work.rankings += part.rankings
    work.exits += [part.layer] * part.rows
    work.whole = work.whole and part.layer == depth
    work.done += part.rows
    if work.rows:
        return None
    return Drafted(torch.cat(work.states).cpu(), work.rankings, work.exits, work.whole)
