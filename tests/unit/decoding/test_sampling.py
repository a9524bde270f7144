"""Sampling is a pure function of the prefix: filters as a slow reference has them, fair noise."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.decoding.noise import gumbel, noise_bits
from shared.decoding.sampling import Choice, PrefixState, SamplingParameters, sample
from shared.errors import ComputeError
from tests.support.size import Size

EMPTY = PrefixState.start(())
LOGITS = st.lists(st.integers(-40, 40).map(lambda quarter: quarter / 4), min_size=3, max_size=24)
IDS = st.lists(st.integers(0, 23), max_size=6)
PARAMETERS = st.builds(
    SamplingParameters,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.999]),
    top_k=st.integers(0, 26),
    min_p=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 0.7, 1.3]),
    min_new_tokens=st.integers(0, 4),
    eos_ids=st.sampled_from([(), (0,), (1, 2), (1, 99)]),
)


def draw(
    logits: list[float] | torch.Tensor,
    parameters: SamplingParameters,
    state: PrefixState = EMPTY,
    /,
    *,
    seed: int = 1,
    index: int = 0,
    position: int = 0,
) -> Choice:
    tensor = torch.as_tensor(
        logits, dtype=None if isinstance(logits, torch.Tensor) else torch.float32
    )
    return sample(tensor, state, parameters, seed=seed, index=index, position=position)


def state_after(prompt: list[int], output: list[int]) -> PrefixState:
    state = PrefixState.start(prompt)
    for token in output:
        state = state.advance(token)
    return state


def penalised(logits: list[float], seen: set[int], parameters: SamplingParameters) -> list[float]:
    penalty = parameters.repetition_penalty
    return [
        (x / penalty if x > 0 else x * penalty) if token in seen else x
        for token, x in enumerate(logits)
    ]


def survivors(scores: dict[int, float], parameters: SamplingParameters) -> dict[int, float]:
    """Filter by the book: sort everything, keep a prefix, one filter after the other."""
    ranked = sorted(scores, key=lambda token: (-scores[token], token))
    if parameters.top_k:
        ranked = ranked[: parameters.top_k]
    weight = {token: Fraction(math.exp(scores[token] - scores[ranked[0]])) for token in ranked}
    if parameters.top_p < 1:
        total, reached, kept = sum(weight.values()), Fraction(0), []
        for token in ranked:
            kept.append(token)
            reached += weight[token] / total
            assume(abs(float(reached) - parameters.top_p) > 1e-9)
            if reached >= parameters.top_p:
                break
        ranked = kept
    if parameters.min_p > 0:
        assume(
            all(
                abs(float(weight[token]) / parameters.min_p - 1) > 1e-9 or weight[token] == 1
                for token in ranked
            )
        )
        ranked = [token for token in ranked if weight[token] >= parameters.min_p]
    return {token: scores[token] for token in ranked}


def reference(
    logits: list[float], prompt: list[int], output: list[int], parameters: SamplingParameters
) -> tuple[int, float]:
    """Choose with plain Python numbers, at seed 1, index 0, position 0."""
    seen = set(prompt) | set(output)
    masked = set(parameters.eos_ids) if len(output) < parameters.min_new_tokens else set()
    scores = {
        token: x
        for token, x in enumerate(penalised(logits, seen, parameters))
        if token not in masked
    }
    if parameters.temperature:
        scores = {token: x / parameters.temperature for token, x in scores.items()}
        scores = survivors(scores, parameters)
        for token in scores:
            scores[token] += gumbel(noise_bits(np.array([token]), seed=1, index=0, position=0))[0]
    best, *others = sorted(scores, key=lambda token: (-scores[token], token))
    return best, scores[best] - scores[others[0]] if others else math.inf


@given(logits=LOGITS, prompt=IDS, output=IDS, parameters=PARAMETERS)
def test_a_choice_is_the_slow_references(
    logits: list[float], prompt: list[int], output: list[int], parameters: SamplingParameters
) -> None:
    prompt, output = ([each % len(logits) for each in ids] for ids in (prompt, output))
    token, gap = reference(logits, prompt, output, parameters)
    choice = draw(logits, parameters, state_after(prompt, output))
    assert choice.token == token
    assert choice.gap == pytest.approx(gap, abs=1e-9)


@given(
    logits=LOGITS,
    parameters=PARAMETERS,
    output=IDS,
    detour=IDS,
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**20),
)
def test_a_choice_is_the_same_again_and_after_a_rollback(
    logits: list[float],
    parameters: SamplingParameters,
    output: list[int],
    detour: list[int],
    seed: int,
    position: int,
) -> None:
    output, detour = ([each % len(logits) for each in ids] for ids in (output, detour))
    state = state_after([0], output)
    first = draw(logits, parameters, state, seed=seed, position=position)
    for token in detour:
        draw(logits, parameters, state.advance(token), seed=seed, position=position)
    assert draw(logits, parameters, state, seed=seed, position=position) == first
    rebuilt = state_after([0], output)
    assert draw(logits, parameters, rebuilt, seed=seed, position=position) == first


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_a_prefix_state_knows_every_id_and_how_many_were_generated(count: int) -> None:
    state = state_after([1000, 1001], [*range(count), *range(count)])
    assert state.seen == {1000, 1001, *range(count)}
    assert state.generated == 2 * count
    assert state_after([1000, 1001], [*range(count), *range(count)]) == state


@pytest.mark.parametrize(
    ("parameters", "allowed"),
    [
        pytest.param(SamplingParameters(temperature=1, top_k=2), {0, 1}, id="top_k cuts a tie"),
        pytest.param(
            SamplingParameters(temperature=1, top_p=0.5), {0, 1}, id="top_p reached exactly"
        ),
        pytest.param(
            SamplingParameters(temperature=1, top_p=0.51), {0, 1, 2}, id="crossing is kept"
        ),
        pytest.param(SamplingParameters(temperature=1, top_p=1e-300), {0}, id="one always stays"),
        pytest.param(
            SamplingParameters(temperature=1, min_p=1), {0, 1, 2, 3}, id="min_p keeps ties"
        ),
        pytest.param(
            SamplingParameters(temperature=1, top_k=2, top_p=0.6), {0, 1}, id="top_p after top_k"
        ),
    ],
)
def test_of_equal_tokens_the_filters_keep_the_lower_ids(
    parameters: SamplingParameters, allowed: set[int]
) -> None:
    logits = [2.0, 2.0, 2.0, 2.0, -60.0]
    seen = {draw(logits, parameters, position=position).token for position in range(200)}
    assert seen == allowed


def test_of_many_equal_tokens_top_p_keeps_the_lower_ids() -> None:
    logits = [float(token % 3 == 0) for token in range(3000)]
    most = SamplingParameters(temperature=1, top_p=0.75)
    tokens = [draw(logits, most, seed=seed).token for seed in range(500)]
    # 1000 e of 1000 e + 2000 is 58 %, so the first 821 of the 2000 others are kept.
    assert {token % 3 for token in tokens} == {0, 1, 2}
    assert all(token % 3 == 0 or token <= 1231 for token in tokens)


def test_an_end_of_sequence_beyond_the_vocabulary_masks_nothing() -> None:
    early = SamplingParameters(min_new_tokens=1, eos_ids=(1, 3))
    assert draw([0.0, 2.0, 1.0], early).token == 2
    assert draw([0.0, 2.0, 1.0], early, EMPTY.advance(0)).token == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_greedy_takes_the_lower_id_of_a_tie(dtype: torch.dtype) -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 3.0], dtype=dtype)
    choice = draw(logits, SamplingParameters())
    assert (choice.token, choice.gap) == (1, 0.0)


@pytest.mark.parametrize(
    "changed", [{"seed": 2}, {"seed": 1 + 2**63}, {"index": 1}, {"position": 1}]
)
def test_seed_index_and_position_each_draw_anew(changed: dict[str, int]) -> None:
    logits, hot = [0.0] * 4096, SamplingParameters(temperature=1)
    assert draw(logits, hot, **changed).token != draw(logits, hot).token


@pytest.mark.parametrize("counted", ["position", "seed", "index"])
def test_tokens_are_drawn_as_often_as_the_softmax_says(counted: str, size: Size) -> None:
    draws = size.pick(short=4_000, long=100_000)
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 1.5, 0.5])
    hot = SamplingParameters(temperature=1.5)
    tokens = [draw(logits, hot, **{counted: each}).token for each in range(draws)]
    expected = torch.softmax(logits.double() / 1.5, 0) * draws
    seen = torch.bincount(torch.tensor(tokens), minlength=6)
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    assert chi_square < 25.7  # 1 in 10,000 for 5 degrees of freedom; the seeds are fixed


def test_confidence_is_of_the_raw_logits_whatever_is_filtered() -> None:
    logits = [3.0, 1.0, 0.0]
    harsh = SamplingParameters(
        temperature=2, top_k=1, repetition_penalty=50, min_new_tokens=1, eos_ids=(0,)
    )
    choice = draw(logits, harsh, PrefixState.start([0]))
    assert choice.token == 1
    assert choice.confidence == pytest.approx(float(torch.softmax(torch.tensor(logits), 0)[0]))
    assert choice.gap == math.inf


@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1, max_size=300))
def test_confidence_is_a_probability(logits: list[float]) -> None:
    choice = draw(logits, SamplingParameters())
    assert 1 / (len(logits) + 1e-3) <= choice.confidence <= 1
    assert choice.gap >= 0


@pytest.mark.parametrize(
    "parameters",
    [
        SamplingParameters(temperature=5e-324),
        SamplingParameters(temperature=1e300),
        SamplingParameters(temperature=1, repetition_penalty=1e-320),
        SamplingParameters(temperature=1, repetition_penalty=1e308),
        SamplingParameters(repetition_penalty=1e-320),
        SamplingParameters(temperature=1, min_p=5e-324, top_p=5e-324),
    ],
    ids=repr,
)
def test_extreme_parameters_choose_a_token_all_the_same(parameters: SamplingParameters) -> None:
    logits = [3e38, -3e38, 5.0, 0.0, -3e38]
    choice = draw(logits, parameters, PrefixState.start([0, 1, 2]))
    assert choice.token in range(5)
    assert choice.gap >= 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    with pytest.raises(ComputeError, match="1 of 3 logits"):
        draw([0.0, bad, 1.0], SamplingParameters(temperature=temperature))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 2.0])
def test_the_logits_given_stay_as_they_are(temperature: float, penalty: float) -> None:
    logits = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    before = logits.detach().clone()
    parameters = SamplingParameters(
        temperature=temperature, repetition_penalty=penalty, min_new_tokens=1, eos_ids=(2,)
    )
    assert draw(logits, parameters, PrefixState.start([1])).token != 2
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: SamplingParameters(temperature=-0.1), "temperature is -0.1; allowed: 0 <="),
        (lambda: SamplingParameters(temperature=math.nan), "temperature is nan"),
        (lambda: SamplingParameters(temperature=math.inf), "temperature is inf"),
        (lambda: SamplingParameters(top_p=0), "top_p is 0; allowed: 0 < x <= 1"),
        (lambda: SamplingParameters(top_p=1.01), "top_p is 1.01"),
        (lambda: SamplingParameters(top_k=-1), "top_k is -1"),
        (lambda: SamplingParameters(min_p=1.5), "min_p is 1.5"),
        (lambda: SamplingParameters(repetition_penalty=0), "repetition_penalty is 0"),
        (lambda: SamplingParameters(min_new_tokens=-1), "min_new_tokens is -1"),
        (lambda: SamplingParameters(eos_ids=(3, -1)), "eos_ids is"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(
    build: Callable[[], SamplingParameters], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        build()
