"""Chosen thresholds keep as much as can be kept while the kept tokens agree as often as asked."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.calibration.thresholds import Bools, Floats, apply_thresholds, choose_thresholds

Chooser = Callable[[Floats, Bools, float], tuple[float, ...]]


def _tokens(count: int = 4000, seed: int = 0) -> tuple[Floats, Bools]:
    """Two exits that know partly the same; the first is sure of itself, the second is not."""
    random = np.random.default_rng(seed)
    easy = random.random(count)
    easier = 0.6 * easy + 0.4 * random.random(count)
    confidence = np.stack([0.3 + 0.7 * easy, 0.6 * easier]).astype(np.float32)
    agrees = np.stack([random.random(count) < easy**0.4, random.random(count) < easier**0.15])
    return confidence, agrees


def _most_kept(confidence: Floats, agrees: Bools, target: float) -> float:
    """The best share there is, by trying everything."""
    # Thresholds are multiples of 0.0001: the highest that each confidence exceeds are enough.
    below = np.maximum(np.ceil(confidence.astype(np.float64) * 10_000) - 1, 0) / 10_000
    marks = [sorted({*row, 1.0}) for row in below]
    shares = [
        kept.share
        for thresholds in product(*marks)
        if (kept := apply_thresholds(confidence, agrees, thresholds)).agreement is None
        or kept.agreement >= target
    ]
    return max(shares)


def _claims(choose: Chooser, target: float = 0.95) -> None:
    confidence, agrees = _tokens()
    kept = apply_thresholds(confidence, agrees, choose(confidence, agrees, target))
    assert kept.agreement is not None
    assert kept.agreement >= target
    assert kept.share >= _most_kept_on_grid(confidence, agrees, target) - 0.002


def _most_kept_on_grid(confidence: Floats, agrees: Bools, target: float) -> float:
    grid = np.linspace(0, 1, 51)
    tried = [apply_thresholds(confidence, agrees, pair) for pair in product(grid, grid)]
    return max(k.share for k in tried if k.agreement is None or k.agreement >= target)


def _one_for_all(confidence: Floats, agrees: Bools, target: float) -> tuple[float, ...]:
    for threshold in np.linspace(0, 1, 1001):
        kept = apply_thresholds(confidence, agrees, (threshold, threshold))
        if kept.agreement is None or kept.agreement >= target:
            return threshold, threshold
    return 1.0, 1.0


def _each_alone(confidence: Floats, agrees: Bools, target: float) -> tuple[float, ...]:
    pairs = zip(confidence, agrees, strict=True)
    return tuple(choose_thresholds(c[None], a[None], target)[0] for c, a in pairs)


def _at_least(confidence: Floats, agrees: Bools, target: float) -> tuple[float, ...]:
    """The right thresholds for the rule `confidence >= threshold` on coarse confidences."""
    chosen = choose_thresholds(confidence, agrees, target)
    return tuple(threshold - 0.05 for threshold in chosen)


def test_the_chooser_meets_its_target_and_keeps_the_most() -> None:
    _claims(choose_thresholds)


@pytest.mark.parametrize("wrong", [_one_for_all, _each_alone, _at_least])
def test_the_claims_tell_a_wrong_chooser(wrong: Chooser) -> None:
    with pytest.raises(AssertionError):
        _claims(wrong)


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.booleans(), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([0.5, 0.8, 0.95, 1.0]),
)
def test_on_few_tokens_nothing_better_exists(
    tokens: list[tuple[int, int, bool, bool]], target: float
) -> None:
    confidence = np.array([[t[0], t[1]] for t in tokens], dtype=np.float32).T / 12
    agrees = np.array([[t[2], t[3]] for t in tokens]).T
    kept = apply_thresholds(confidence, agrees, choose_thresholds(confidence, agrees, target))
    assert kept.agreement is None or kept.agreement >= target
    assert kept.share == pytest.approx(_most_kept(confidence, agrees, target))


def test_the_rule_is_strictly_greater() -> None:
    confidence, agrees = np.array([[0.5, 0.5, 0.75]]), np.array([[True, False, True]])
    assert apply_thresholds(confidence, agrees, (0.5,)).share == pytest.approx(1 / 3)
    assert choose_thresholds(confidence, agrees, 1.0) == (0.5,)


def test_a_token_leaves_at_its_first_sure_exit() -> None:
    confidence = np.array([[0.9, 0.1, 0.1], [0.9, 0.9, 0.1]])
    agrees = np.array([[False, True, True], [True, True, True]])
    kept = apply_thresholds(confidence, agrees, (0.5, 0.5))
    assert kept.shares == pytest.approx((1 / 3, 1 / 3))
    assert kept.agreements == (0.0, 1.0)
    assert kept.agreement == 0.5


def test_nothing_is_kept_where_no_threshold_reaches_the_target() -> None:
    confidence, agrees = np.full((2, 9), 0.999), np.zeros((2, 9), dtype=bool)
    thresholds = choose_thresholds(confidence, agrees, 0.95)
    assert thresholds == (1.0, 1.0)
    kept = apply_thresholds(confidence, agrees, thresholds)
    assert (kept.share, kept.agreement) == (0.0, None)


def test_everything_is_kept_where_exits_always_agree() -> None:
    confidence, agrees = _tokens(100)
    kept = apply_thresholds(
        confidence, agrees, choose_thresholds(confidence, np.ones_like(agrees), 1.0)
    )
    assert kept.share == 1


@pytest.mark.parametrize("target", [0, -1, 1.5, float("nan")])
def test_a_target_that_is_no_share_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match="target"):
        choose_thresholds(np.ones((1, 2)), np.ones((1, 2), dtype=bool), target)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="fit"):
        choose_thresholds(np.ones((2, 3)), np.ones((2, 4), dtype=bool), 0.9)
