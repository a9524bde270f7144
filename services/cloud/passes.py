"""From a context to a pass and back: which rows the KV lacks, where the full model judges or
chooses, and what it said.

Pure planning over a context and an engine's caches; it neither waits nor runs anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from services.cloud.contexts import Context
from services.cloud.engine import CloudEngine, Draw, Pass, Pick
from shared import quantization
from shared.decoding.sampling import Choice, SamplingParameters
from shared.protocol.messages import Sampling


class Observer(Protocol):
    """Told what the full model did, for metrics."""

    def passed(self, mode: str, *, judged: int, disagreed: int, decided: int) -> None:
        """A pass ended: tokens of the edge it judged, those it disagreed with, and tokens it
        chose itself.
        """

    def verified(self, *, drafts: int, accepted: int, decided: int) -> None:
        """A pass over drafts ended: how many it looked at, how many were right, and how many tokens
        it chose besides.
        """

    def shared(self, *, asked: int, found: int) -> None:
        """A session's first pass ended: positions of its prompt, and those whose KV was here."""

    def rewound(self) -> None:
        """A block was answered with the position to send again from."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A pass, and the positions its picks speak of: first those the edge decided, then (if
    `decides`) the new one.
    """

    work: Pass
    positions: Sequence[int]
    decides: bool


def plan(context: Context, engine: CloudEngine, *, decide: bool) -> Plan | None:
    """Plan one pass over every position the KV lacks; `None` if there is nothing to run.

    With `decide` the last position's output chooses the next token. Without it the last position is
    left for the pass that will: a row is run once, and its output is needed then.
    """
    end = context.states.end if context.carries_states else context.through
    cache = context.cache = context.cache or engine.new_cache()
    first = cache.length(context.opening.split)
    last = end if decide else end - 1
    if decide and first >= end:  # a choice that failed after its rows had run
        first = end - 1
        cache.truncate(first)
    if first >= last:
        return None
    judged = range(max(context.judged, first + 1), min(context.through, last + 1))
    positions = [*judged, *([end] if decide else [])]
    picks = [Pick(row=p - 1 - first, position=p, state=context.prefix_state(p)) for p in positions]
    work = Pass(
        cache=cache,
        start=context.opening.split,
        position=first,
        inputs=_inputs(context, engine, first, last),
        picks=picks,
        draw=draw_of(context.opening.sampling),
        claim=context.claim,
    )
    return Plan(work=work, positions=positions, decides=decide)


def bytes_needed(context: Context, engine: CloudEngine) -> int:
    """Return the bytes of KV the next pass will add."""
    end = context.states.end if context.carries_states else context.through
    cache = context.cache = context.cache or engine.new_cache()
    return cache.growth(range(context.opening.split, engine.model.span.stop), end)


def settle(context: Context, planned: Plan, choices: Sequence[Choice]) -> tuple[int, int]:
    """Write a finished pass into the context; returns (tokens judged, of these disagreed)."""
    before = len(context.disagreements)
    judged = len(planned.positions) - planned.decides
    for position, choice in zip(planned.positions[:judged], choices[:judged], strict=True):
        context.judge(position, choice.token)
    if planned.decides:
        context.append(choices[-1].token)
    return judged, len(context.disagreements) - before


def _inputs(context: Context, engine: CloudEngine, first: int, last: int) -> torch.Tensor:
    if not context.carries_states:
        return torch.tensor(context.tokens[first:last], dtype=torch.int64)
    block = context.states.slice(first, last)
    return quantization.decode(block, dtype=engine.model.dtype, device=engine.model.device)


def draw_of(sampling: Sampling) -> Draw:
    """The wire's sampling parameters as the engine takes them."""
    parameters = SamplingParameters(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        min_new_tokens=sampling.min_new_tokens,
        eos_ids=sampling.eos_ids,
    )
    return Draw(parameters=parameters, seed=sampling.seed, index=sampling.index)
