"""The four signals of a row of logits, held against the plain formulas."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.decoding.certainty import certainty, signals_of
from shared.decoding.sampling import PrefixState, SamplingParameters, sample
from shared.exits.signals import FEATURES, Signals


def logits(rows: int, vocabulary: int, *, spread: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(rows * vocabulary)
    return torch.randn(rows, vocabulary, generator=generator) * spread


def plain(row: Tensor) -> list[float]:
    """By definition, in float64."""
    raw = row.double().numpy()
    shares = np.exp(raw - raw.max())
    shares /= shares.sum()
    squared = shares**2 / (shares**2).sum()
    second, first = np.sort(shares)[-2:]
    entropies = [-sum(p * math.log(p) for p in each if p) for each in (shares, squared)]
    return [first, entropies[0], first - second, entropies[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.0, 0.1, 4.0, 50.0])
def test_signals_are_what_their_formulas_say(spread: float, dtype: torch.dtype) -> None:
    rows = logits(5, 300, spread=spread).to(dtype)
    found = certainty(rows)
    assert (found.shape, found.dtype) == ((5, len(FEATURES)), torch.float32)
    expected = torch.tensor([plain(row) for row in rows])
    torch.testing.assert_close(found, expected.float(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("vocabulary", [2, 97, 4096, 30_000])
def test_a_row_of_a_batch_is_the_row_alone(vocabulary: int) -> None:
    rows = logits(7, vocabulary)
    alone = torch.cat([certainty(row[None]) for row in rows])
    assert torch.equal(certainty(rows), alone)
    assert torch.equal(certainty(rows.flip(0)).flip(0), alone)


def test_the_largest_logits_overflow_nothing() -> None:
    most = torch.finfo(torch.float32).max
    sure, torn = signals_of(torch.tensor([[most, -most, 0.0], [most, most, -most]]))
    assert sure == Signals(1.0, 0.0, 1.0, 0.0)
    assert torn.values == pytest.approx((0.5, math.log(2), 0.0, math.log(2)), abs=1e-6)


def test_a_row_that_is_no_number_spoils_no_other() -> None:
    rows = logits(3, 50)
    spoilt = rows.clone()
    spoilt[1, 7] = math.nan
    assert torch.equal(certainty(spoilt)[[0, 2]], certainty(rows)[[0, 2]])


def test_the_top_is_the_confidence_of_the_choice() -> None:
    for row, signals in zip(logits(4, 500), signals_of(logits(4, 500)), strict=True):
        choice = sample(
            row, PrefixState.start([0]), SamplingParameters(), seed=0, index=0, position=1
        )
        assert signals.top == pytest.approx(choice.confidence, rel=1e-6)
