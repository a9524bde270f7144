"""A ranking's first is what is chosen; the others are the next best by the same scores."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.decoding.noise import gumbel, noise_bits
from shared.decoding.sampling import PrefixState, Ranking, SamplingParameters, rank, sample
from shared.errors import ComputeError

EMPTY = PrefixState.start(())
# Quarters, so that there are ties.
LOGITS = st.lists(st.integers(-12, 12).map(lambda quarter: quarter / 4), min_size=1, max_size=24)
PARAMETERS = st.builds(
    SamplingParameters,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9]),
    top_k=st.integers(0, 26),
    min_p=st.sampled_from([0.0, 0.2, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 0.7, 1.3]),
)
GREEDY = SamplingParameters()


def ranked(
    logits: list[float],
    parameters: SamplingParameters,
    count: int,
    state: PrefixState = EMPTY,
    seed: int = 1,
) -> Ranking:
    given = torch.tensor(logits, dtype=torch.float32)
    return rank(given, state, parameters, seed=seed, index=0, position=3, count=count)


@given(
    logits=LOGITS,
    parameters=PARAMETERS,
    seen=st.lists(st.integers(0, 23), max_size=5),
    count=st.integers(1, 26),
    seed=st.integers(0, 2**64 - 1),
)
def test_the_first_is_what_sample_chooses_and_leads_by_its_gap(
    logits: list[float], parameters: SamplingParameters, seen: list[int], count: int, seed: int
) -> None:
    state = PrefixState.start(each % len(logits) for each in seen)
    ranking = ranked(logits, parameters, count, state, seed)
    choice = sample(
        torch.tensor(logits, dtype=torch.float32), state, parameters, seed=seed, index=0, position=3
    )
    assert ranking.tokens[0] == choice.token
    assert ranking.lead == choice.gap
    assert 1 <= len(ranking.tokens) <= count
    assert len(set(ranking.tokens)) == len(ranking.tokens)


@given(logits=LOGITS, count=st.integers(1, 26))
def test_greedy_ranks_by_logit_and_ties_by_lower_id(logits: list[float], count: int) -> None:
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    assert ranked(logits, GREEDY, count).tokens == tuple(order[:count])


@given(logits=LOGITS, count=st.integers(1, 26), temperature=st.sampled_from([0.3, 1.0, 2.5]))
def test_sampled_ranks_by_the_score_after_noise(
    logits: list[float], count: int, temperature: float
) -> None:
    ids = np.arange(len(logits))
    noise: NDArray[np.float64] = gumbel(noise_bits(ids, seed=1, index=0, position=3))
    scores = (np.array(logits) - max(logits)) / temperature + noise
    order = sorted(range(len(logits)), key=lambda token: (-scores[token], token))
    parameters = SamplingParameters(temperature=temperature)
    assert ranked(logits, parameters, count).tokens == tuple(order[:count])


@given(logits=LOGITS, parameters=PARAMETERS, count=st.integers(1, 25))
def test_a_longer_ranking_begins_with_the_shorter(
    logits: list[float], parameters: SamplingParameters, count: int
) -> None:
    short, long = (ranked(logits, parameters, n) for n in (count, count + 1))
    assert long.tokens[: len(short.tokens)] == short.tokens
    assert len(short.tokens) == min(count, len(long.tokens))
    assert short.lead == long.lead


@pytest.mark.parametrize(
    ("parameters", "left"),
    [
        (SamplingParameters(temperature=1, top_k=2), 2),
        (SamplingParameters(temperature=1, top_p=0.01), 1),
        (SamplingParameters(temperature=1, min_p=1.0), 1),
        (SamplingParameters(temperature=1), 4),
        (SamplingParameters(), 4),
    ],
)
def test_fewer_are_ranked_where_fewer_are_left(parameters: SamplingParameters, left: int) -> None:
    ranking = ranked([3.0, 1.0, 2.0, 0.0], parameters, 9)
    assert len(ranking.tokens) == left
    assert (ranking.lead == math.inf) == (left == 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_must_not_come_yet_is_never_ranked(temperature: float) -> None:
    early = SamplingParameters(temperature=temperature, min_new_tokens=1, eos_ids=(0, 2))
    logits = [9.0, 1.0, 8.0]
    assert ranked(logits, early, 3).tokens == (1,)
    assert ranked(logits, early, 3).lead == math.inf
    assert set(ranked(logits, early, 3, EMPTY.advance(1)).tokens) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_not_ranked(temperature: float) -> None:
    with pytest.raises(ComputeError):
        ranked([1.0, math.nan], SamplingParameters(temperature=temperature), 2)
