"""A path keeps the most tokens that a level allows, by trying everything, and never more."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.calibration.threshold_paths import kept_at, threshold_path, wrong_at


@given(st.integers(0, 10_000), st.integers(1, 2), st.integers(1, 25))
def test_no_thresholds_keep_more_within_a_level(seed: int, exits: int, total: int) -> None:
    random = np.random.default_rng(seed)
    scores = np.round(random.random((exits, total)), 1)  # many alike
    agrees = random.random((exits, total)) < 0.3 + 0.7 * scores
    levels = np.array([0.0, 0.04, 0.1, 0.3, 1.0])
    path = threshold_path(scores, agrees, levels)
    grid = [-0.01, *np.unique(scores), 1.0]
    every = [_outcome(scores, agrees, each) for each in product(grid, repeat=exits)]
    for level, thresholds in zip(levels, path, strict=True):
        kept, wrong = _outcome(scores, agrees, thresholds)
        assert wrong <= level * total + 1e-9
        assert kept == max(k for k, w in every if w <= level * total + 1e-9)


def test_a_token_is_kept_at_its_first_sure_exit() -> None:
    scores = np.array([[0.9, 0.5, 0.2, 0.9], [0.1, 0.9, 0.3, 0.9]])
    agrees = np.array([[True, True, True, False], [False, False, True, True]])
    kept = kept_at(scores, (0.5, 0.5))
    assert kept.tolist() == [0, 1, 2, 0]
    assert wrong_at(agrees, kept).tolist() == [False, True, False, True]


def test_what_does_not_fit_is_refused() -> None:
    for scores, agrees in ((np.ones((2, 3)), np.ones((2, 4))), (np.ones(3), np.ones(3))):
        with pytest.raises(ValueError, match="do not fit"):
            threshold_path(scores, agrees.astype(bool), np.array([0.1]))


def _outcome(
    scores: np.ndarray, agrees: np.ndarray, thresholds: tuple[float, ...]
) -> tuple[int, int]:
    kept = kept_at(scores, thresholds)
    return int((kept < len(scores)).sum()), int(wrong_at(agrees, kept).sum())
