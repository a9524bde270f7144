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
from shared.model import KVCache, Segment, SpanModel
from shared.runtime.work import Failed

Choices: TypeAlias = tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """How a session's tokens are chosen."""

    parameters: SamplingParameters
    seed: int
    index: int


@dataclass(frozen=True, slots=True)
class Pick:
    """Choose a token from the output of row `row` of a pass; `state` folds every token up to and
    including that row's.
    """

    row: int
    state: PrefixState


@dataclass(slots=True)
class Pass:
    """A run of rows of one session: ids [T] entering at layer 0, or states [T, H] entering at layer
    `start`.

    The rows stand at `position` and the following positions, and the cache holds everything before
    them.
    """

    cache: KVCache
    start: int
    position: int
    inputs: Tensor
    picks: Sequence[Pick]
    draw: Draw
    done: int = 0
    choices: list[Choice] = field(default_factory=list)
    charge: int = 1

    @property
    def rows(self) -> int:
        """Rows still to run."""
        return len(self.inputs) - self.done


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
        hidden = self.model.forward([self._segment(work, rows) for work, rows in batch])
        wanted = [[p for p in w.picks if w.done <= p.row < w.done + rows] for w, rows in batch]
        picked = [
            states[[pick.row - work.done for pick in picks]]
            for (work, _), states, picks in zip(batch, hidden, wanted, strict=True)
        ]
        logits = self.model.logits(torch.cat(picked)) if any(wanted) else torch.empty(0)
        parts = logits.split([len(picks) for picks in wanted])
        return [
            self._advance(work, rows, picks, part)
            for (work, rows), picks, part in zip(batch, wanted, parts, strict=True)
        ]

    def _segment(self, work: Pass, rows: int) -> Segment:
        inputs = work.inputs[work.done : work.done + rows].to(self.model.device)
        return Segment(
            cache=work.cache,
            start=work.start,
            stop=self.model.span.stop,
            position=work.position + work.done,
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
        work.charge = rows * (self.model.span.stop - work.start)
        return None if work.rows else tuple(work.choices)


def _choose(work: Pass, pick: Pick, logits: Tensor) -> Choice:
    draw = work.draw
    return sample(
        logits,
        pick.state,
        draw.parameters,
        seed=draw.seed,
        index=draw.index,
        position=work.position + pick.row + 1,
    )
