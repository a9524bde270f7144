"""The upper layers: one ragged forward over whatever rows many sessions need now, then a choice at
the rows asked for.

Prompt, catch-up, judging and single-token decode are the same call. Knows neither text, network nor
contexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from shared.decoding.sampling import Choice, PrefixState, SamplingParameters, sample
from shared.model import KVCache, LayerSpan, Lineage, Loan, Segment, SpanModel, Tap, Tree
from shared.runtime.deadline import NEVER, Deadline
from shared.runtime.work import Claim, Failed

Choices: TypeAlias = tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """How a session's tokens are chosen."""

    parameters: SamplingParameters
    seed: int
    index: int


@dataclass(frozen=True, slots=True)
class Pick:
    """Choose the token at `position` from the output of row `row` of a pass; `state` folds every
    token before it.
    """

    row: int
    position: int
    state: PrefixState


@dataclass(slots=True)
class Pass:
    """A run of rows of one session: ids [T] entering at layer 0, or states [T, H] entering at layer
    `start`.

    The rows stand at `position` and the following positions, and the cache holds everything before
    them. Rows that are not one line have `parents`: per row the row it follows, -1 for what is in
    the cache. A pass by the whole model whose layers below the `tap` lack rows (their states came
    from elsewhere) first runs the ids [B] `behind` through them. Of a pass that begins with no rows
    in the cache the first may be on `loan`; `borrowed` of them then did not have to run.
    """

    cache: KVCache
    start: int
    position: int
    inputs: Tensor
    picks: Sequence[Pick]
    draw: Draw
    parents: Sequence[int] | None = None
    behind: Tensor | None = None
    tap: Tap | None = None
    caught_up: int = 0
    done: int = 0
    choices: list[Choice] = field(default_factory=list)
    charge: int = 1
    lineage: Lineage | None = None
    claim: Claim = field(default_factory=Claim)
    deadline: Deadline = NEVER
    loan: Loan | None = None
    borrowed: int = 0

    @property
    def rows(self) -> int:
        """Rows still to run."""
        return len(self.inputs) - self.done + self.rows_behind

    @property
    def rows_behind(self) -> int:
        """Rows still to run below the tap only."""
        return 0 if self.behind is None else len(self.behind) - self.caught_up


class CloudEngine:
    """Runs passes over a span that reaches the model's last layer."""

    def __init__(self, model: SpanModel) -> None:
        self.model = model

    def new_cache(self) -> KVCache:
        """An empty KV cache for one session."""
        return self.model.new_cache()

    def step(self, batch: Sequence[tuple[Pass, int]]) -> list[Choices | Failed | None]:
        """Run each pass by its allotted rows; see `shared.runtime.work.Engine`. A finished pass
        gives its picks' choices.
        """
        for work, _ in batch:
            _borrow(work, self.model.span)
        batch = self._catch_up([(work, min(rows, work.rows)) for work, rows in batch])
        going = [(work, rows) for work, rows in batch if rows]
        hidden = self.model.forward([self._segment(work, rows) for work, rows in going])
        wanted = [[p for p in w.picks if w.done <= p.row < w.done + rows] for w, rows in going]
        picked = [
            states[[pick.row - work.done for pick in picks]]
            for (work, _), states, picks in zip(going, hidden, wanted, strict=True)
        ]
        logits = self.model.logits(torch.cat(picked)) if any(wanted) else torch.empty(0)
        parts = logits.split([len(picks) for picks in wanted])
        outcomes = {
            id(work): self._advance(work, rows, picks, part)
            for (work, rows), picks, part in zip(going, wanted, parts, strict=True)
        }
        return [outcomes.get(id(work)) for work, _ in batch]

    def _catch_up(self, batch: Sequence[tuple[Pass, int]]) -> list[tuple[Pass, int]]:
        """Run what is behind below the taps; returns the batch with the rows left for the rest."""
        segments, left = [], []
        for work, rows in batch:
            work.charge = 0
            behind = min(rows, work.rows_behind)
            left.append((work, rows - behind))
            if behind:
                assert work.behind is not None
                assert work.tap is not None
                ids = work.behind[work.caught_up : work.caught_up + behind]
                segments.append(
                    Segment(
                        cache=work.cache,
                        start=0,
                        stop=work.tap.layer,
                        position=work.cache.length(0),
                        ids=ids.to(self.model.device),
                        states=None,
                    )
                )
                work.caught_up += behind
                work.charge = behind * work.tap.layer
        if segments:
            self.model.forward(segments)
        return left

    def _segment(self, work: Pass, rows: int) -> Segment:
        inputs = work.inputs[work.done : work.done + rows].to(self.model.device)
        return Segment(
            cache=work.cache,
            start=work.start,
            stop=self.model.span.stop,
            position=work.position + work.done,
            tree=_tree(work, rows),
            tap=work.tap,
            ids=inputs if work.start == 0 else None,
            states=None if work.start == 0 else inputs,
        )

    def _advance(
        self, work: Pass, rows: int, picks: Sequence[Pick], logits: Tensor
    ) -> Choices | Failed | None:
        try:
            for pick, row in zip(picks, logits, strict=True):
                work.choices.append(_choose(work, pick, row))
        except Exception as error:
            # One session's bad numbers must not fail its neighbours in the batch.
            return Failed(error)
        work.done += rows
        work.charge += rows * (self.model.span.stop - work.start)
        return None if work.rows else tuple(work.choices)


def _borrow(work: Pass, span: LayerSpan) -> None:
    """Take the rows on loan, if they are still to be had; otherwise they are run."""
    loan, work.loan = work.loan, None
    if loan is not None and work.cache.borrow(loan, range(work.start, span.stop)):
        work.done = work.borrowed = loan.rows


def _choose(work: Pass, pick: Pick, logits: Tensor) -> Choice:
    draw = work.draw
    return sample(
        logits,
        pick.state,
        draw.parameters,
        seed=draw.seed,
        index=draw.index,
        position=pick.position,
    )


def _tree(work: Pass, rows: int) -> Tree | None:
    """How the next `rows` rows of a pass see each other, unless they are one line."""
    if work.parents is None:
        return None
    if work.lineage is None:
        work.lineage = Lineage.of(work.parents)
    stop = work.done + rows
    return Tree(
        base=work.position,
        positions=tuple(work.position + depth for depth in work.lineage.depths[:stop]),
        visible=work.lineage.visible[work.done : stop, :stop],
    )
