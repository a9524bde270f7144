"""The lower layers: proposals for many sessions in one step, leaving early where an exit is sure.

A step runs new tokens through [0, s) in one ragged forward, asks the exit at s, and runs [s, e) for
those that are not sure, catching up in the same call on every earlier position the exit at s had
left behind. Knows neither text nor network; whether an exit is sure is the caller's rule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.edge import drafting
from services.edge.drafting import Drafted, Drafting
from services.edge.state import EdgeState, forward
from shared.decoding.certainty import signals_of
from shared.decoding.sampling import Choice, PrefixState, SamplingParameters, sample
from shared.errors import ComputeError
from shared.exits.policy import Asked
from shared.exits.signals import Signals
from shared.model import Segment, SpanModel
from shared.runtime.work import Claim, Failed


@dataclass(frozen=True, slots=True)
class Question:
    """Asks the exits for the next token. `sure` says whether the exit asked last may answer, given
    all that were asked; `chance` what an exit's signals are worth, if that is known.
    """

    sure: Callable[[Sequence[Asked]], bool]
    prefix: PrefixState
    parameters: SamplingParameters
    seed: int
    index: int
    chance: Callable[[int, Signals], float | None] = lambda *_: None


@dataclass(frozen=True, slots=True)
class Proposal:
    """The edge's candidate: what the exits that were asked said, the last of which it is taken
    from, its choice (none where no exit was asked), and the states at the split.

    `states` [T, H] belong to the tokens given with this work, in the model's dtype, on the CPU.
    """

    asked: tuple[Asked, ...]
    choice: Choice | None
    states: Tensor


@dataclass(slots=True)
class Proposing:
    """New tokens of one session to be run; with a `question`, the exits propose what follows them.

    A work without new tokens asks the exits again on the last one run.
    """

    state: EdgeState
    ids: Sequence[int]
    question: Question | None
    done: int = 0
    states: list[Tensor] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    catching_up: bool = False
    charge: int = 1

    @property
    def claim(self) -> Claim:
        """The session's."""
        return self.state.claim

    @property
    def rows(self) -> int:
        """Rows still to run: new tokens, then, where the exit at the split was not sure, every
        position left behind there."""
        if self.catching_up:
            return sum(map(len, self.state.behind))
        return max(1, len(self.ids) - self.done)


EdgeWork = Proposing | Drafting
EdgeResult = Proposal | Drafted


class EdgeEngine:
    """Runs the edge's span [0, e) with exits at the split and at e (one exit where they are equal).

    Args:
        max_rows: positions left behind that one step catches up on, over all sessions together.
    """

    def __init__(self, model: SpanModel, split: int, *, max_rows: int) -> None:
        self.model = model
        self.split = split
        self.depth = model.span.stop
        self.max_rows = max_rows

    def new_state(self, claim: Claim | None = None) -> EdgeState:
        """Empty state for one session, run on behalf of `claim`."""
        return EdgeState(self.model.new_cache(), claim=claim or Claim())

    def step(self, batch: Sequence[tuple[EdgeWork, int]]) -> list[EdgeResult | Failed | None]:
        """Run each work by its allotted rows; see `shared.runtime.work.Engine`."""
        outcomes: dict[int, EdgeResult | Failed | None] = {}
        proposing = [(work, rows) for work, rows in batch if isinstance(work, Proposing)]
        trees = [(work, rows) for work, rows in batch if isinstance(work, Drafting)]
        if proposing:
            outcomes |= self._propose(proposing)
        if trees:
            found = drafting.step(self.model, self.split, trees)
            outcomes |= {id(work): one for (work, _), one in zip(trees, found, strict=True) if one}
        return [outcomes.get(id(work)) for work, _ in batch]

    def _propose(self, batch: Sequence[tuple[Proposing, int]]) -> dict[int, Proposal | Failed]:
        outcomes: dict[int, Proposal | Failed] = {}
        for work, _ in batch:
            work.charge = 0
        self._run_lower([(w, rows) for w, rows in batch if w.done < len(w.ids)], outcomes)
        ready = [w for w, _ in batch if w.done == len(w.ids) and id(w) not in outcomes]
        unsure = [work for work in ready if work.catching_up]
        fresh = [work for work in ready if not work.catching_up]
        outcomes |= {id(work): _proposal(work, None) for work in fresh}
        asking = [work for work in fresh if work.question is not None]
        unsure += self._ask(asking, [w.state.behind[-1][-1:] for w in asking], self.split, outcomes)
        if self.depth > self.split:
            caught_up, last = self._run_upper(unsure, outcomes)
            self._ask(caught_up, last, self.depth, outcomes)
        else:
            # No layers above the split here: nothing will ever catch up on these states.
            for work in ready:
                work.state.behind[:] = [part[-1:] for part in work.state.behind[-1:]]
        return outcomes

    def _run_lower(
        self, batch: Sequence[tuple[Proposing, int]], outcomes: dict[int, Proposal | Failed]
    ) -> None:
        """Run new tokens through [0, s); their states are kept for upload and for catching up."""
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
        for (work, rows), states in zip(batch, forward(self.model, segments), strict=True):
            if isinstance(states, Failed):
                outcomes[id(work)] = states
                continue
            work.done += rows
            work.charge += rows * self.split
            work.states.append(states)
            work.state.behind.append(states)

    def _run_upper(
        self, works: Sequence[Proposing], outcomes: dict[int, Proposal | Failed]
    ) -> tuple[list[Proposing], list[Tensor]]:
        """Bring positions left behind through [s, e) in one call, as many as the step has room for.

        Returns the works that have caught up, and each one's last row, [1, H].
        """
        left = self.max_rows
        chunks = []
        for work in works:
            rows = torch.cat(work.state.behind)
            chunk, rest = rows[: max(1, left)], rows[max(1, left) :]
            left -= len(chunk)
            work.catching_up = len(rest) > 0
            if work.catching_up:
                outcomes.pop(id(work), None)
            chunks.append((chunk, rest))
        segments = [
            Segment(
                cache=work.state.cache,
                start=self.split,
                stop=self.depth,
                position=work.state.cache.length(self.split),
                ids=None,
                states=chunk,
            )
            for work, (chunk, _) in zip(works, chunks, strict=True)
        ]
        caught_up, last = [], []
        for work, (chunk, rest), states in zip(
            works, chunks, forward(self.model, segments), strict=True
        ):
            if isinstance(states, Failed):
                outcomes[id(work)] = states
                continue
            work.charge += len(chunk) * (self.depth - self.split)
            work.state.behind[:] = [rest] if len(rest) else []
            if not len(rest):
                caught_up.append(work)
                last.append(states[-1:])
        return caught_up, last

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
        said = self.model.exit_logits(layer, torch.cat(list(last)))
        for work, logits, signals in zip(works, said, signals_of(said), strict=True):
            question = work.question
            assert question is not None
            try:
                choice = _choose(question, logits, work.state.cache.length(0))
            except ComputeError as error:
                outcomes[id(work)] = Failed(error)
                continue
            chance = question.chance(layer, signals)
            work.asked.append(Asked(layer, choice.token, signals, chance))
            outcomes[id(work)] = _proposal(work, choice)
            if not question.sure(work.asked):
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


def _proposal(work: Proposing, choice: Choice | None) -> Proposal:
    states = torch.cat(work.states).cpu() if work.states else torch.empty(0)
    return Proposal(tuple(work.asked), choice, states)
