"""Noise by counter: one number per (seed, position, index, token id), the same on every machine.

The bits are a fold of SplitMix64 over those four words (Steele, Lea and Flood, "Fast Splittable
Pseudorandom Number Generators", 2014), so nothing is drawn in order and any candidate's noise can
be had alone. Knows neither logits nor models."""

import numpy as np
from numpy.typing import NDArray

_GAMMA = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1
_UNIT = 2.0**-52


def splitmix64(seed: int, count: int) -> int:
    """Return output number `count` (from 0) of SplitMix64 seeded with `seed`; 64 bits, unsigned."""
    bits = (seed + (count + 1) * _GAMMA) & _MASK
    bits = ((bits ^ (bits >> 30)) * _FIRST) & _MASK
    bits = ((bits ^ (bits >> 27)) * _SECOND) & _MASK
    return bits ^ (bits >> 31)


def noise_bits(
    tokens: NDArray[np.int64], *, seed: int, index: int, position: int
) -> NDArray[np.uint64]:
    """Return 64 bits for each token id: `splitmix64` folded over (seed, position, index, token),
    from 0.

    Args:
        tokens: [C] token ids.
        seed: of the request, 64 bits, unsigned.
        index: which of a request's several answers this is.
        position: absolute position in the sequence of the token to be chosen.
    """
    key = 0
    for word in (seed, position, index):
        key = splitmix64(key, word)
    bits = tokens.astype(np.uint64)
    bits *= np.uint64(_GAMMA)  # arrays wrap silently
    bits += np.uint64((key + _GAMMA) & _MASK)
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(_FIRST)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(_SECOND)
    bits ^= bits >> np.uint64(31)
    return bits


def gumbel(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return standard Gumbel noise, `-log(-log(u))`, of the upper 52 of the given 64 bits.

    `u = (bits + 1/2) / 2**52` is exact in float64 and lies strictly between 0 and 1, so the noise
    is finite, from -3.6 to 36.8. With 53 bits the largest `u` would round to 1."""
    uniform = (bits >> np.uint64(12)).astype(np.float64)
    uniform += 0.5
    uniform *= _UNIT
    np.log(uniform, out=uniform)
    np.negative(uniform, out=uniform)
    np.log(uniform, out=uniform)
    return np.negative(uniform, out=uniform)
