"""A fit is the likeliest one, finds what was planted, and the error of chances is what it says."""

import numpy as np
import pytest

from shared.exits.signals import Signals
from training.calibration.logistic import (
    RIDGE,
    Fit,
    expected_error,
    fit_logistic,
    gradient,
    reliability,
)
from training.calibration.thresholds import Bools
from training.calibration.trace_arrays import Numbers

_PLANTED = Fit(np.array([2.0, -0.5, 1.0, 0.3]), -1.0)


def _drawn(count: int, seed: int = 0) -> tuple[Numbers, Bools]:
    """Signals of very unlike scales, and agreement as `_PLANTED` says."""
    random = np.random.default_rng(seed)
    signals = random.normal([0.6, 3.0, 0.4, 1.5], [0.3, 2.0, 0.3, 1.0], size=(count, 4))
    return signals, random.random(count) < _PLANTED.chance(signals)


def test_no_other_weights_are_likelier() -> None:
    signals, agrees = _drawn(2000)
    fit = fit_logistic(signals, agrees)
    # All that is left is the pull of the ridge.
    assert np.abs(gradient(fit, signals, agrees)).max() < 100 * RIDGE
    assert np.abs(gradient(Fit(fit.weights * 1.01, fit.bias), signals, agrees)).max() > 1e-4


def test_planted_weights_are_found() -> None:
    fit = fit_logistic(*_drawn(200_000))
    np.testing.assert_allclose(fit.weights, _PLANTED.weights, atol=0.1)
    assert fit.bias == pytest.approx(_PLANTED.bias, abs=0.1)


def test_a_planted_fit_is_calibrated_on_other_tokens_and_its_raw_signal_is_not() -> None:
    signals, agrees = _drawn(20_000, seed=1)
    chances = fit_logistic(*_drawn(20_000)).chance(signals)
    for equal_mass in (True, False):
        assert expected_error(chances, agrees, equal_mass=equal_mass) < 0.015
    raw = np.clip(signals[:, 0], 0, 1)
    assert expected_error(raw, agrees, equal_mass=True) > 0.05


def test_the_edge_computes_the_same_chance() -> None:
    signals, agrees = _drawn(500)
    fit = fit_logistic(signals, agrees)
    stored = fit.stored()
    for row, chance in zip(signals[:20].tolist(), fit.chance(signals[:20]), strict=True):
        assert stored.chance(Signals(*row)) == pytest.approx(float(chance), rel=1e-12)


def test_text_without_variety_has_an_answer() -> None:
    signals, agrees = _drawn(300)
    signals[:, 2] = 0.25
    assert fit_logistic(signals, agrees).weights[2] == 0
    for one_sided in (np.ones(300, dtype=bool), np.zeros(300, dtype=bool)):
        chance = fit_logistic(signals, one_sided).chance(signals)
        assert np.abs(chance - one_sided).max() < 0.01
    separable = fit_logistic(signals, signals[:, 0] > 0.6)
    assert np.isfinite(separable.weights).all()


def test_what_does_not_fit_is_refused() -> None:
    signals, agrees = _drawn(5)
    for given in ((signals, agrees[:4]), (signals[0], agrees[:4]), (signals[:0], agrees[:0])):
        with pytest.raises(ValueError, match="do not fit"):
            fit_logistic(*given)


def test_the_error_is_the_mean_distance_of_chance_and_share() -> None:
    chances = np.array([0.1] * 10 + [0.9] * 30)
    agrees = np.array([True] * 3 + [False] * 7 + ([True] * 4 + [False]) * 6)
    # 10 places say 0.1 and 0.3 agree; 30 say 0.9 and 0.8 agree.
    expected = (10 * 0.2 + 30 * 0.1) / 40
    assert expected_error(chances, agrees, equal_mass=False, bins=10) == pytest.approx(expected)
    assert expected_error(chances, agrees, equal_mass=True, bins=4) == pytest.approx(expected)
    certain = np.array([0.0, 1.0])
    assert expected_error(certain, np.array([False, True]), equal_mass=False) == 0


@pytest.mark.parametrize("equal_mass", [True, False])
def test_bins_hold_every_place_once_by_rising_chance(equal_mass: bool) -> None:
    signals, agrees = _drawn(1003)
    chances = _PLANTED.chance(signals)
    bins = reliability(chances, agrees, equal_mass=equal_mass)
    assert sum(each.count for each in bins) == 1003
    assert [each.chance for each in bins] == sorted(each.chance for each in bins)
    if equal_mass:
        assert {each.count for each in bins} <= {66, 67}
    assert sum(each.agreed * each.count for each in bins) == pytest.approx(agrees.sum())
