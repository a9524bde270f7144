"""A target that is certified is held as often as promised, whichever bound certified it.

Texts are drawn whose disagreement is exactly the target: every certificate is then a false one, and
may be given in a share `delta` of the draws at most.
"""

import math

import numpy as np
import pytest

from tests.support.size import Size
from training.calibration.guarantee import (
    Test,
    betting,
    certify,
    hoeffding_bentkus,
    spread_betting,
)
from training.calibration.trace_arrays import Numbers

DELTA = 0.1
LONGEST = 64
BOUNDS: dict[str, Test] = {
    "betting": betting,
    "spread betting": spread_betting,
    "Hoeffding-Bentkus": hoeffding_bentkus,
}
# How a document's chance of a wrong token is drawn around the mean: alike, uneven, or all at once.
TEXTS = ("alike", "uneven", "all at once")


def _documents(random: np.random.Generator, count: int, mean: float, text: str) -> Numbers:
    """The share of wrong tokens of each document; its expectation is `mean`."""
    tokens = random.integers(20, LONGEST + 1, count)
    if text == "alike":
        return random.binomial(tokens, mean) / tokens
    if text == "uneven":
        return random.binomial(tokens, 2 * mean * random.random(count)) / tokens
    return (random.random(count) < mean).astype(np.float64)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("bound", BOUNDS)
def test_what_is_not_so_is_certified_no_oftener_than_promised(
    bound: str, text: str, size: Size
) -> None:
    draws, target = size.pick(short=300, long=20_000), 0.05
    random = np.random.default_rng(3)
    false = 0
    for _ in range(draws):
        loss = _documents(random, 200, target, text)
        false += BOUNDS[bound](loss, target, DELTA) <= DELTA
    noise = 3 * math.sqrt(DELTA * (1 - DELTA) / draws)
    assert false / draws <= DELTA + noise


def test_what_is_so_is_certified_and_betting_sees_it_first() -> None:
    target, random = 0.05, np.random.default_rng(4)
    found = dict.fromkeys(BOUNDS, 0)
    for _ in range(50):
        loss = _documents(random, 400, 0.6 * target, "alike")
        for bound, test in BOUNDS.items():
            found[bound] += test(loss, target, DELTA) <= DELTA
    assert found["betting"] > 45
    assert found["betting"] > found["Hoeffding-Bentkus"] + 10


@pytest.mark.parametrize("bound", BOUNDS)
def test_nothing_wrong_in_n_documents_certifies_no_less_than_the_least_there_is(bound: str) -> None:
    """No bound of means in [0, 1] can do better than target^n, the chance to see nothing of a loss
    of 1 that comes with chance `target`.
    """
    for count in (20, 50, 200):
        p = BOUNDS[bound](np.zeros(count), 0.05, DELTA)
        assert p >= 0.95**count * (1 - 1e-9)
    assert BOUNDS[bound](np.zeros(200), 0.05, DELTA) < DELTA
    assert BOUNDS[bound](np.ones(200), 0.05, DELTA) == 1
    assert BOUNDS[bound](np.full(200, 0.05), 0.05, DELTA) == 1


def test_testing_ends_at_the_first_failure() -> None:
    good, bad = np.zeros(300), np.full(300, 0.2)
    assert certify([good, good, bad, good], 0.05, 0.05, betting) == 2
    assert certify([bad, good], 0.05, 0.05, betting) == 0
    assert certify([], 0.05, 0.05, betting) == 0


def test_the_order_of_documents_is_nothing_to_a_spread_bet() -> None:
    random = np.random.default_rng(5)
    loss = _documents(random, 300, 0.03, "uneven")
    shuffled = random.permutation(loss)
    assert spread_betting(loss, 0.05, DELTA) == pytest.approx(spread_betting(shuffled, 0.05, DELTA))
