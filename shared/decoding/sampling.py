"""The choice of a token as a pure function of logits, prefix, parameters, seed, index and position.

Both machines choose with this and the same noise (Gumbel-max), so a proposal is right exactly when
both sides pick the same token, at any temperature. It computes on the CPU in numpy whatever device
the logits are on: one logarithm, one order of sums. Knows neither models nor text."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.decoding.noise import gumbel, noise_bits
from shared.errors import ComputeError

# Goes into a session's fingerprint: to be raised with any change of filters, their order, hash or
# noise.
SAMPLER_VERSION = 1

_LARGEST = float(np.finfo(np.float64).max)
_RECENT = 64  # new ids a prefix state gathers before it merges them into the large set

Scores: TypeAlias = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How a token is chosen; each default leaves its filter out, and a temperature of 0 is greedy.

    `min_new_tokens` masks every id of `eos_ids` until so many tokens were generated.

    Raises:
        ValueError: a field lies outside its range; the message names both.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "0 <= x < inf")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "0 < x <= 1")
        _require(self.top_k >= 0, "top_k", self.top_k, "0 <= x, where 0 is no limit")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "0 <= x <= 1")
        penalty = self.repetition_penalty
        _require(0 < penalty < math.inf, "repetition_penalty", penalty, "0 < x < inf")
        _require(self.min_new_tokens >= 0, "min_new_tokens", self.min_new_tokens, "0 <= x")
        _require(min(self.eos_ids, default=0) >= 0, "eos_ids", self.eos_ids, "0 <= each id")


@dataclass(frozen=True, slots=True)
class PrefixState:
    """What sampling needs to know of the tokens so far: which ids occurred, and how many were
    generated.

    Immutable, so a node of a draft keeps its own and going back is dropping one. Advancing costs
    O(64 + ids / 64), amortised."""

    generated: int
    _seen: frozenset[int] = field(repr=False)
    _recent: frozenset[int] = field(default=frozenset(), repr=False)

    @classmethod
    def start(cls, prompt_ids: Iterable[int]) -> "PrefixState":
        """Return the state after the prompt, before any generated token."""
        return cls(0, frozenset(prompt_ids))

    def advance(self, token: int) -> "PrefixState":
        """Return the state after one more generated token; this one stays as it is."""
        if token in self._seen or token in self._recent:
            return PrefixState(self.generated + 1, self._seen, self._recent)
        recent = self._recent | {token}
        if len(recent) < _RECENT:
            return PrefixState(self.generated + 1, self._seen, recent)
        return PrefixState(self.generated + 1, self._seen | recent)

    @property
    def seen(self) -> frozenset[int]:
        """Every id of prompt and output."""
        return self._seen | self._recent


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token.

    Attributes:
        confidence: the largest probability of the softmax of the raw logits, in (0, 1]; computed in
            the logits' own precision.
            It is the model's, whatever penalties and filters made of the choice.
        gap: by how much the chosen token's score beat the next best, after filters and noise, in
            float64: the margin of a near tie.
            Greedy: of (penalised) logits. Infinite where no other token was left.
    """

    token: int
    confidence: float
    gap: float


def sample(
    logits: Tensor,
    state: PrefixState,
    parameters: SamplingParameters,
    *,
    seed: int,
    index: int,
    position: int,
) -> Choice:
    """Choose the token at `position`.

    Filters apply in a fixed order: repetition penalty, mask of end-of-sequence ids, temperature,
    top-k, top-p, min-p; then Gumbel noise, and the best score wins. Equal scores go to the lower id
    everywhere.

    Args:
        logits: [V] of any floating dtype, on any device.
        state: fold over every token before `position`.
        seed: of the request, 0 <= seed < 2**64; not used when greedy.
        index: which of a request's several answers this is.
        position: absolute position in the sequence of the token to be chosen.

    Raises:
        ComputeError: a logit is not finite.
    """
    raw = _on_cpu(logits)
    tokens, scores = _scored(raw, state, parameters, seed, index, position)
    best, gap = _best(scores)
    return Choice(best if tokens is None else int(tokens[best]), _confidence(raw), gap)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The tokens with the best scores, best first; the first is what `sample` chooses.

    Attributes:
        lead: by how much the first beats the second; infinite where there is no second.
    """

    tokens: tuple[int, ...]
    lead: float


def rank(
    logits: Tensor,
    state: PrefixState,
    parameters: SamplingParameters,
    *,
    seed: int,
    index: int,
    position: int,
    count: int,
) -> Ranking:
    """Rank the `count` likeliest outcomes of `sample` on another model's logits (fewer where
    fewer are left).

    They are the best by *perturbed* score: with the same noise on both sides these are the tokens
    the other model most likely picks; by plain probability they would be worthless once the
    temperature is above 0. Arguments and errors as `sample`.
    """
    tokens, scores = _scored(_on_cpu(logits), state, parameters, seed, index, position)
    left = scores.copy()
    places, tops = [], []
    # A few times the best of the rest: much quicker than parting or sorting a whole vocabulary.
    for _ in range(min(max(count, 2), len(left))):
        place = int(left.argmax())
        top = float(left[place])
        if top == -math.inf:
            break
        places.append(place)
        tops.append(top)
        left[place] = -math.inf
    lead = tops[0] - tops[1] if len(tops) > 1 else math.inf
    found = places[:count] if tokens is None else [int(tokens[place]) for place in places[:count]]
    return Ranking(tuple(found), lead)


def _scored(
    raw: Scores,
    state: PrefixState,
    parameters: SamplingParameters,
    seed: int,
    index: int,
    position: int,
) -> tuple[NDArray[np.int64] | None, Scores]:
    """Return (ids [C], or none where a place is its id; scores [C] after filters and noise)."""
    # An overflow means an infinite distance, which every step below takes as such.
    with np.errstate(over="ignore"):
        scores = _masked(_penalised(raw, state, parameters), state, parameters)
        if not parameters.temperature:
            return None, scores
        tokens, scores = _survivors(scores, parameters)
        scores += gumbel(noise_bits(tokens, seed=seed, index=index, position=position))
        return tokens, scores


def _on_cpu(logits: Tensor) -> Scores:
    """Return logits [V] as float32, or float64 if they are; the array may share their memory."""
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    raw: Scores = logits.detach().cpu().numpy()
    if not np.isfinite(raw).all():
        bad = int(np.count_nonzero(~np.isfinite(raw)))
        raise ComputeError(f"{bad} of {len(raw)} logits are not finite")
    return raw


def _confidence(raw: Scores) -> float:
    """Return the largest probability of softmax(raw); its sum holds a 1, so it is never above 1."""
    # An overflow means an infinite distance: no share of the sum.
    with np.errstate(over="ignore"):
        return 1.0 / float(np.exp(raw - raw.max()).sum())


def _penalised(raw: Scores, state: PrefixState, parameters: SamplingParameters) -> Scores:
    """Divide positive logits of seen ids by the penalty, multiply others (CTRL, Keskar 2019)."""
    penalty = parameters.repetition_penalty
    if penalty == 1:
        return raw
    scores = raw.astype(np.float64)
    seen = np.array(list(state.seen), dtype=np.int64)
    held = scores[seen]
    scores[seen] = np.where(held > 0, held / penalty, held * penalty).clip(-_LARGEST, _LARGEST)
    return scores


def _masked(scores: Scores, state: PrefixState, parameters: SamplingParameters) -> Scores:
    """Rule out the end of the sequence while it is too short."""
    if state.generated >= parameters.min_new_tokens:
        return scores
    scores = scores.copy()
    scores[[token for token in parameters.eos_ids if token < len(scores)]] = -math.inf
    if scores.max() == -math.inf:
        raise ComputeError("every token ends the sequence, and it must not end yet")
    return scores


def _survivors(
    scores: Scores, parameters: SamplingParameters
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Apply temperature, top-k, top-p and min-p; the best score becomes 0.

    Returns:
        ids [C], ascending, and their scores [C].
    """
    scores = scores.astype(np.float64)
    scores -= scores.max()
    scores /= parameters.temperature
    tokens = np.flatnonzero(scores > -math.inf)
    if 0 < parameters.top_k < len(tokens):
        tokens = tokens[_top_k(scores[tokens], parameters.top_k)]
    if parameters.top_p < 1:
        tokens = tokens[_top_p(scores[tokens], parameters.top_p)]
    if parameters.min_p > 0:
        tokens = tokens[scores[tokens] >= math.log(parameters.min_p)]
    return tokens, scores[tokens]


def _top_k(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` best of [C], ascending; equal ones go to the first."""
    border = np.partition(scores, -count)[-count]
    above = np.flatnonzero(scores > border)
    equal = np.flatnonzero(scores == border)
    return np.sort(np.concatenate([above, equal[: count - len(above)]]))


def _top_p(scores: NDArray[np.float64], mass: float) -> NDArray[np.int64]:
    """Return the places of the fewest best of [C] whose probabilities reach `mass`, ascending.

    Only what can be among them is sorted: all those below (1 - mass) / 2C together weigh too little
    to be needed.
    """
    weights = np.exp(scores)
    total = weights.sum()
    likely = np.flatnonzero(weights >= total * (1 - mass) / (2 * len(weights)))
    order = likely[np.argsort(-scores[likely], kind="stable")]
    last = np.searchsorted(np.cumsum(weights[order]), mass * total)  # the one that crosses
    return np.sort(order[: last + 1])


def _best(scores: Scores) -> tuple[int, float]:
    """Return the place of the best of [C], the first of equal ones, and its lead over the next."""
    best = int(scores.argmax())
    others = scores.copy()
    others[best] = -math.inf
    return best, float(scores[best]) - float(others.max())


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}; allowed: {allowed}")
