"""What the whole model writes after a prompt, greedily or by the sampler that serves it.

Runs on the engine, many prompts a step. It chooses tokens as both services do, noise included, so
that what is measured on its texts is what would be served. Knows neither files nor exits.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from shared.decoding.sampling import PrefixState, SamplingParameters, sample
from shared.exits.calibration import HOTTEST
from shared.model import KVCache, Segment, SpanModel

GREEDY = SamplingParameters()
SAMPLED = SamplingParameters(temperature=0.8, top_p=0.95)
# The hardest that is promised for: exits differ most where all of the distribution counts.
DRAWN = SamplingParameters(temperature=HOTTEST)
# How the whole model writes what drafts are measured on, by name.
KINDS = {"greedy": GREEDY, "sampled": SAMPLED}
_SESSIONS = 32


def write_on(
    model: SpanModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    *,
    end: int | None,
    parameters: SamplingParameters = GREEDY,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[list[int]]:
    """Each prompt's continuation by up to `tokens` ids, an `end` included.

    model: a whole one, with embedding and head. The seed of prompt n is `seed` + n. `progress` is
    told of how many prompts are continued. Penalties are refused with ValueError: no prefix is
    folded here.
    """
    if parameters.repetition_penalty != 1 or parameters.min_new_tokens:
        raise ValueError("what depends on the prefix is not sampled here")
    answers: list[list[int]] = []
    for first in range(0, len(prompts), _SESSIONS):
        group = prompts[first : first + _SESSIONS]
        answers += _write(model, group, tokens, end, parameters=parameters, seed=seed + first)
        progress(len(answers))
    return answers


def _write(
    model: SpanModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    end: int | None,
    *,
    parameters: SamplingParameters,
    seed: int,
) -> list[list[int]]:
    answers: list[list[int]] = [[] for _ in prompts]
    with ExitStack() as stack:
        caches = [stack.enter_context(model.new_cache()) for _ in prompts]
        waiting = {index: list(prompt) for index, prompt in enumerate(prompts)}
        while waiting:
            logits = _logits(model, [(caches[index], ids) for index, ids in waiting.items()])
            for row, index in zip(logits, waiting, strict=True):
                position = caches[index].length(0)
                answers[index].append(choose(row, parameters, seed + index, position))
            waiting = {
                index: answers[index][-1:]
                for index in waiting
                if answers[index][-1] != end and len(answers[index]) < tokens
            }
    return answers


def _logits(model: SpanModel, sessions: Sequence[tuple[KVCache, list[int]]]) -> Tensor:
    """Feed each session its new tokens; returns [sessions, V], what follows each."""
    segments = [
        Segment(cache, 0, model.span.stop, cache.length(0), _tensor(model, ids), None)
        for cache, ids in sessions
    ]
    last = torch.stack([states[-1] for states in model.forward(segments)])
    return model.logits(last)


def choose(logits: Tensor, parameters: SamplingParameters, seed: int, position: int) -> int:
    """The token of logits [V] at a position, of a request with this seed."""
    nothing = PrefixState.start(())
    return sample(logits, nothing, parameters, seed=seed, index=0, position=position).token


def _tensor(model: SpanModel, ids: Sequence[int]) -> Tensor:
    return torch.tensor(ids, device=model.device)
