"""The full model as a judge: it agrees with what it would have said itself, however it chooses."""

from collections.abc import Sequence

import pytest
import torch

from cli.full_model import FullModel
from cli.partition import SHIPPED_MODEL
from shared.decoding.sampling import PrefixState, SamplingParameters, sample
from tests.support.reference import text, whole

NEW = 10
SAMPLED = SamplingParameters(temperature=0.9, top_p=0.95)


def _said(prompt: Sequence[int], parameters: SamplingParameters, seed: int) -> list[int]:
    """What the model says token by token, each from a pass of its own over all before it."""
    ids = list(prompt)
    state = PrefixState.start(prompt)
    for _ in range(NEW):
        with torch.inference_mode():
            logits = whole()(torch.tensor([ids])).logits[0, -1]
        token = sample(logits, state, parameters, seed=seed, index=0, position=len(ids)).token
        ids.append(token)
        state = state.advance(token)
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return text().encode("Once upon a time there was")


@pytest.mark.parametrize("parameters", [SamplingParameters(), SAMPLED])
def test_it_agrees_with_all_it_says_itself_and_not_with_a_token_put_in(
    prompt: list[int], parameters: SamplingParameters
) -> None:
    model, said = FullModel(SHIPPED_MODEL, parameters), _said(prompt, parameters, seed=7)
    assert model.agreeing(prompt, said, seed=7) == NEW
    assert model.agreeing(prompt, [*said[:-1], said[-1] + 1], seed=7) == NEW - 1


def test_another_seed_says_something_else_and_a_greedy_model_knows_none(prompt: list[int]) -> None:
    said = _said(prompt, SAMPLED, seed=7)
    assert FullModel(SHIPPED_MODEL, SAMPLED).agreeing(prompt, said, seed=8) < NEW
    greedy = FullModel(SHIPPED_MODEL)
    assert greedy.agreeing(prompt, said) < NEW
    assert greedy.agreeing(prompt, said, seed=8) == greedy.agreeing(prompt, said)


def test_it_holds_the_end_back_as_long_as_the_request_did(prompt: list[int]) -> None:
    likely = tuple(set(_said(prompt, SamplingParameters(), seed=0)))
    held = SamplingParameters(min_new_tokens=NEW // 2, eos_ids=likely)
    said = _said(prompt, held, seed=0)
    assert not set(said[: NEW // 2]) & set(likely)
    assert set(said[NEW // 2 :]) & set(likely), "else the end of holding back is not tested"
    assert FullModel(SHIPPED_MODEL, held).agreeing(prompt, said) == NEW
    assert FullModel(SHIPPED_MODEL).agreeing(prompt, said) < NEW
