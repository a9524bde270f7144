"""The lower layers: proposals for many sessions in one step, leaving early where an exit is sure.

A step runs new tokens through [0, s) in one ragged forward, asks the exit at s, and runs [s, e) for
those that are not sure, catching up in the same call on every earlier position the exit at s had
left behind. Knows neither text nor network; whether an exit is sure is the caller's rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shared.decoding.sampling import Choice, PrefixState, SamplingParameters, sample
from shared.errors import ComputeError
from shared.model import KVCache, Segment, SpanModel
from shared.runtime.work import Failed


@dataclass(slots=True)
class EdgeState:
    """What the edge's engine holds of one session: KV of [0, e), and states [T, H] that have not
    yet gone beyond the split.
    """

    cache: KVCache
    behind: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Question:
    """Asks the exits for the next token. `sure(layer, confidence)` says whether the exit before
    `layer` may answer.
    """

    sure: Callable[[int, float], bool]
    prefix: PrefixState
    parameters: SamplingParameters
    seed: int
    index: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """The edge's candidate: the exit it was taken at, the choice (none where no exit was asked),
    and the states at the split.

    `states` [T, H] belong to the tokens given with this work, in the model's dtype, on the CPU.
    """

    layer: int
    choice: Choice | None
    states: Tensor


@dataclass(slots=True)
class Proposing:
    """New tokens of one session to be run; with a `question`, the exits propose what follows
    them.
    """

    state: EdgeState
    ids: Sequence[int]
    question: Question | None
    done: int = 0
    states: list[Tensor] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows still to run. A work without new tokens asks the exits again, which takes one
        step of one row.
        """
        return max(1, len(self.ids) - self.done)


class EdgeEngine:
    """Runs the edge's span [0, e) with exits at the split and at e (one exit where they are
    equal).
    """

    def __init__(self, model: SpanModel, split: int) -> None:
        self.model = model
        self.split = split
        self.depth = model.span.stop

    def new_state(self) -> EdgeState:
        """Empty state for one session."""
        return EdgeState(self.model.new_cache())

    def step(self, batch: Sequence[tuple[Proposing, int]]) -> list[Proposal | Failed | None]:
        """Run each work by its allotted rows; see `shared.runtime.work.Engine`."""
        self._run_lower([(work, rows) for work, rows in batch if work.done < len(work.ids)])
        finished = [work for work, _ in batch if work.done == len(work.ids)]
        outcomes: dict[int, Proposal | Failed] = {
            id(work): _proposal(work, self.split, None) for work in finished
        }
        asking = [work for work in finished if work.question is not None]
        last = [work.state.behind[-1][-1:] for work in asking]
        unsure = self._ask(asking, last, self.split, outcomes)
        if self.depth > self.split:
            self._ask(unsure, self._run_upper(unsure), self.depth, outcomes)
        return [outcomes.get(id(work)) for work, _ in batch]

    def _run_lower(self, batch: Sequence[tuple[Proposing, int]]) -> None:
        """Run new tokens through [0, s); their states are kept for upload and for catching up."""
        if not batch:
            return
        segments = [
            Segment(
                cache=work.state.cache,
                start=0,
                stop=self.split,
                position=work.state.cache.length(0),
                ids=torch.tensor(work.ids[work.done : work.done + rows], device=self.model.device),
                states=None,
            )
            for work, rows in batch
        ]
        for (work, rows), states in zip(batch, self.model.forward(segments), strict=True):
            work.done += rows
            work.states.append(states)
            work.state.behind.append(states)

    def _run_upper(self, works: Sequence[Proposing]) -> list[Tensor]:
        """Bring every position left behind through [s, e) in one call; returns each work's last
        row, [1, H].
        """
        if not works:
            return []
        segments = [
            Segment(
                cache=work.state.cache,
                start=self.split,
                stop=self.depth,
                position=work.state.cache.length(self.split),
                ids=None,
                states=torch.cat(work.state.behind),
            )
            for work in works
        ]
        outputs = self.model.forward(segments)
        for work in works:
            work.state.behind.clear()
        return [states[-1:] for states in outputs]

    def _ask(
        self,
        works: Sequence[Proposing],
        last: Sequence[Tensor],
        layer: int,
        outcomes: dict[int, Proposal | Failed],
    ) -> list[Proposing]:
        """Ask the exit before `layer` with each work's last row; outcomes are updated, unsure
        works returned.
        """
        if not works:
            return []
        unsure = []
        for work, logits in zip(
            works, self.model.exit_logits(layer, torch.cat(list(last))), strict=True
        ):
            question = work.question
            assert question is not None
            try:
                choice = _choose(question, logits, work.state.cache.length(0))
            except ComputeError as error:
                outcomes[id(work)] = Failed(error)
                continue
            outcomes[id(work)] = _proposal(work, layer, choice)
            if not question.sure(layer, choice.confidence):
                unsure.append(work)
        return unsure


def _choose(question: Question, logits: Tensor, position: int) -> Choice:
    return sample(
        logits,
        question.prefix,
        question.parameters,
        seed=question.seed,
        index=question.index,
        position=position,
    )


def _proposal(work: Proposing, layer: int, choice: Choice | None) -> Proposal:
    states = torch.cat(work.states).cpu() if work.states else torch.empty(0)
    return Proposal(layer, choice, states)
