"""The noise is a fixed function: pinned values, and every word of its counter matters."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.decoding.noise import gumbel, noise_bits, splitmix64

WORD = st.integers(0, 2**64 - 1)


def _bits(token: int, *, seed: int = 0, index: int = 0, position: int = 0) -> int:
    tokens = np.array([token])
    return int(noise_bits(tokens, seed=seed, index=index, position=position)[0])


def test_splitmix64_gives_the_published_sequence() -> None:
    assert [splitmix64(1234567, count) for count in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize(
    ("token", "seed", "index", "position", "bits"),
    [
        (0, 0, 0, 0, 0x2130748AAAC80268),
        (1, 0, 0, 0, 0x0CC78FB979CE5090),
        (4095, 2**64 - 1, 3, 131_071, 0xB288CF3E44F22745),
        (262_143, 0x123456789ABCDEF0, 1, 77, 0x9A7E7188E1DC334F),
    ],
)
def test_noise_bits_are_pinned(token: int, seed: int, index: int, position: int, bits: int) -> None:
    assert _bits(token, seed=seed, index=index, position=position) == bits


@given(seed=WORD, index=st.integers(0, 100), position=WORD, token=st.integers(0, 2**31))
def test_noise_over_arrays_is_the_fold_of_splitmix64(
    seed: int, index: int, position: int, token: int
) -> None:
    folded = 0
    for word in (seed, position, index, token):
        folded = splitmix64(folded, word)
    assert _bits(token, seed=seed, index=index, position=position) == folded


@given(seed=WORD, index=st.integers(0, 100), position=st.integers(0, 2**32), token=WORD)
def test_each_word_of_the_counter_changes_the_bits(
    seed: int, index: int, position: int, token: int
) -> None:
    token %= 2**31
    variants = {
        _bits(token, seed=seed, index=index, position=position),
        _bits(token + 1, seed=seed, index=index, position=position),
        _bits(token, seed=seed ^ 1, index=index, position=position),
        _bits(token, seed=seed ^ 2**63, index=index, position=position),
        _bits(token, seed=seed, index=index + 1, position=position),
        _bits(token, seed=seed, index=index, position=position + 1),
    }
    assert len(variants) == 6


def test_gumbel_noise_is_finite_at_both_ends_and_has_52_bits() -> None:
    ends = gumbel(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert ends[0] == pytest.approx(-math.log(53 * math.log(2)))
    assert ends[1] == pytest.approx(53 * math.log(2))
    neighbours = gumbel(np.array([1 << 12, 2 << 12], dtype=np.uint64))
    assert neighbours[0] < neighbours[1]


def test_gumbel_noise_has_the_mean_and_variance_of_the_distribution() -> None:
    noise = gumbel(noise_bits(np.arange(200_000), seed=5, index=0, position=9))
    assert noise.mean() == pytest.approx(0.5772156649, abs=0.015)  # 5 standard errors
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.03)
