"""Requests to the reference model, and where two answers to one request may part: at near ties.

Where two texts part, the full model's own choice there must have been a near tie: its lead over
the next best under the published tau.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from shared.decoding.sampling import Choice, PrefixState, SamplingParameters, sample
from tests.support.apps import Answer, ask, ids_of, pair
from tests.support.reference import bundles, loaded, tau, text, whole
from tests.support.tiny_models import feed


@dataclass(frozen=True, slots=True)
class Wish:
    """A request as it is sent."""

    prompt: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


async def together(wishes: Sequence[Wish]) -> list[Answer]:
    """Every wish's answer, asked for at once."""
    async with pair() as services:
        asked = [ask(services.edge, wish.prompt, **wish.parameters) for wish in wishes]
        return await asyncio.gather(*asked)


async def one_by_one(wishes: Sequence[Wish]) -> list[Answer]:
    """Every wish's answer, each asked for when the one before is complete."""
    async with pair() as services:
        return [await ask(services.edge, wish.prompt, **wish.parameters) for wish in wishes]


def draws(wish: Wish, generated: Sequence[int], logits: Tensor) -> Choice:
    """The choice from logits [V] that follow the prompt and these tokens."""
    prompt, parameters = text().encode(wish.prompt), wish.parameters
    state = PrefixState.start(prompt)
    for token in generated:
        state = state.advance(token)
    sampling = SamplingParameters(
        temperature=parameters.get("temperature", 0.0),
        top_p=parameters.get("top_p", 1.0),
        repetition_penalty=parameters.get("repetition_penalty", 1.0),
        min_new_tokens=parameters.get("min_new_tokens", 0),
        eos_ids=text().eos_ids,
    )
    position = len(prompt) + len(generated)
    seed = parameters.get("seed", 0)
    return sample(logits, state, sampling, seed=seed, index=0, position=position)


def full_choice(wish: Wish, generated: Sequence[int]) -> Choice:
    """What the full model chooses there, computed by transformers."""
    with torch.inference_mode():
        ids = torch.tensor([[*text().encode(wish.prompt), *generated]])
        return draws(wish, generated, whole()(ids).logits[0, -1])


def exit_choices(wish: Wish, generated: Sequence[int]) -> dict[int, Choice]:
    """What each exit of the edge proposes there."""
    model = loaded(bundles().edge)
    ids = torch.tensor([*text().encode(wish.prompt), *generated])
    found = {}
    for layer in model.exits:
        with model.new_cache() as cache:
            states = feed(model, cache, ids, start=0, stop=layer)
        found[layer] = draws(wish, generated, model.exit_logits(layer, states[-1:])[0])
    return found


def lead(wish: Wish, generated: Sequence[int]) -> float:
    """By how much the token there is decided, in logits: the narrowest of all that decides it."""
    scale = wish.parameters.get("temperature") or 1.0
    narrowest = full_choice(wish, generated).gap * scale
    if wish.parameters["mode"] in ("collaborative", "standalone"):
        thresholds = {layer: info.threshold for layer, info in loaded(bundles().edge).exits.items()}
        for layer, choice in exit_choices(wish, generated).items():
            given = wish.parameters.get("threshold")
            threshold = thresholds[layer] if given is None else given
            narrowest = min(narrowest, choice.gap * scale, abs(choice.confidence - threshold))
    return narrowest


def parting(one: Answer, other: Answer) -> int | None:
    """Which token two answers first differ in, if they do."""
    first, second = ids_of(one), ids_of(other)
    pairs = enumerate(zip(first, second, strict=False))
    shorter = min(len(first), len(second))
    whole_of_shorter = None if len(first) == len(second) else shorter
    return next((n for n, (a, b) in pairs if a != b), whole_of_shorter)


def require_same(wish: Wish, one: Answer, other: Answer) -> float | None:
    """Hold that two answers to one request have the same tokens up to the first near tie; returns
    by how little that was decided, where there is one.
    """
    at = parting(one, other)
    if at is None:
        return None
    assert at < min(len(ids_of(one)), len(ids_of(other))), f"{wish}: one text is cut short"
    decided_by = lead(wish, ids_of(one)[:at])
    assert decided_by < tau(), f"token {at} of {wish} differs, decided by {decided_by:.3g}"
    return decided_by
