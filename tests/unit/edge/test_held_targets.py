"""Thresholds of a calibrated target while it is held by what is seen."""

from collections.abc import Mapping

import pytest

from services.edge.exit_rules import ExitRules
from shared.exits.calibration import Agreement, ExitFit, Logistic, Target
from shared.exits.policies import build

FIT = ExitFit(Logistic((1.0, 0.0, 0.0, 0.0), 0.0), 100, 0.1, 0.01)
TARGETS = (
    Target(0.01, {3: 1.0, 6: 1.0}, 1.0),
    Target(0.02, {3: 0.95, 6: 0.9}, 0.5),
    Target(0.1, {3: 0.8, 6: 0.7}, 0.2),
)


def rules(factor: float, targets: tuple[Target, ...] = TARGETS) -> ExitRules:
    made = ExitRules(
        build("per_exit", {"thresholds": {3: 0.6, 6: 0.5}}),
        Agreement("ab", {3: FIT, 6: FIT}, targets),
    )
    made.hold(lambda target: target * factor)
    return made


def thresholds(of: ExitRules, wish: float) -> Mapping[int, float]:
    numbers = of.policy(threshold=None, max_disagreement=wish).numbers()
    return {int(layer): threshold for layer, threshold in numbers["thresholds"].items()}


@pytest.mark.parametrize(("wish", "target"), [(0.02, 1), (0.05, 1), (0.1, 2), (0.5, 2)])
def test_where_nothing_has_drifted_thresholds_are_as_calibrated(wish: float, target: int) -> None:
    assert thresholds(rules(1.0), wish) == pytest.approx(TARGETS[target].thresholds)


def test_where_too_much_was_wrong_less_is_kept() -> None:
    held = thresholds(rules(0.5), 0.1)
    assert 0.8 < held[3] < 0.95
    assert 0.7 < held[6] < 0.9


@pytest.mark.parametrize("factor", [1.0, 0.7, 0.4, 0.2, 0.1, 0.03])
def test_no_exit_is_opened_to_hold_a_target(factor: float) -> None:
    """Calibrated apart, a lower target may go without one exit and have more of another."""
    crossing = (Target(0.005, {3: 0.98, 6: 1.0}, 0.9), Target(0.05, {3: 1.0, 6: 0.7}, 0.4))
    held = thresholds(rules(factor, crossing), 0.05)
    assert held[3] == 1.0
    assert held[6] >= 0.7


def test_below_all_that_was_calibrated_nothing_is_kept() -> None:
    assert thresholds(rules(0.5), 0.005) == {3: 1.0, 6: 1.0}


def test_unmoved_rules_go_by_the_calibration() -> None:
    assert thresholds(rules(0.5).unmoved, 0.1) == pytest.approx(TARGETS[2].thresholds)


@pytest.mark.parametrize(
    ("threshold", "wish", "usual", "target"),
    [
        (None, 0.05, None, 0.02),
        (None, None, 0.1, 0.1),
        (0.5, None, 0.1, None),
        (None, None, None, None),
        (None, 0.01, None, None),
        (None, 0.001, None, None),
    ],
)
def test_a_request_is_served_for_the_target_its_thresholds_hold(
    threshold: float | None, wish: float | None, usual: float | None, target: float | None
) -> None:
    """None of those that keep nothing by them: there is nothing to be held."""
    made = rules(1.0)
    made.max_disagreement = usual
    assert made.wanted(threshold=threshold, max_disagreement=wish) == target


def test_the_thresholds_in_force_are_those_of_requests_that_say_nothing() -> None:
    made = rules(0.5)
    assert made.in_force == {3: 0.6, 6: 0.5}
    made.max_disagreement = 0.1
    assert made.in_force == thresholds(made, 0.1)


def test_without_targets_there_is_nothing_to_hold() -> None:
    assert rules(0.5, ()).in_force == {3: 0.6, 6: 0.5}
