"""Who decides a token, as tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.policy import (
    Decision,
    Fallback,
    Keep,
    Mode,
    Offload,
    OnCloudLoss,
    Rules,
    decide,
    default_on_cloud_loss,
)
from shared.exits.calibration import Logistic
from shared.exits.policies import build
from shared.exits.policy import Asked
from shared.exits.signals import Signals

KEEP = Keep(4)


def rules(mode: Mode, threshold: float = 0.8, on_loss: OnCloudLoss = "degrade") -> Rules:
    policy = build("per_exit", {"thresholds": {4: threshold}})
    return Rules(mode=mode, policy=policy, on_cloud_loss=on_loss)


def decided(rules: Rules, confidence: float, *, reachable: bool) -> Decision:
    said = [Asked(4, 0, Signals(confidence, 1.0, 0.0, 0.5))]
    return decide(rules, said, rules.policy.start(), cloud_reachable=reachable)


@pytest.mark.parametrize("on_loss", ["degrade", "error"])
@pytest.mark.parametrize(
    ("mode", "confidence", "reachable", "degrading", "failing"),
    [
        ("standalone", 0.1, True, KEEP, KEEP),
        ("standalone", 0.1, False, KEEP, KEEP),
        ("standalone", 0.9, False, KEEP, KEEP),
        ("collaborative", 0.9, True, KEEP, KEEP),
        ("collaborative", 0.9, False, KEEP, KEEP),
        ("collaborative", 0.8, True, Offload(), Offload()),
        ("collaborative", 0.1, True, Offload(), Offload()),
        ("collaborative", 0.1, False, Fallback(), Offload()),
        ("cloud", 0.9, True, Offload(), Offload()),
        ("cloud", 0.9, False, Fallback(), Offload()),
        ("split", 0.9, True, Offload(), Offload()),
        ("split", 0.9, False, Fallback(), Offload()),
    ],
)
def test_a_proposal_is_kept_offloaded_or_stands_in(
    *,
    mode: Mode,
    confidence: float,
    reachable: bool,
    degrading: Decision,
    failing: Decision,
    on_loss: OnCloudLoss,
) -> None:
    expected = degrading if on_loss == "degrade" else failing
    assert decided(rules(mode, on_loss=on_loss), confidence, reachable=reachable) == expected


@given(confidence=st.floats(0, 1, exclude_min=True))
def test_threshold_0_keeps_every_token_and_1_none(confidence: float) -> None:
    for reachable in (True, False):
        assert decided(rules("collaborative", 0), confidence, reachable=reachable) == KEEP
    assert decided(rules("collaborative", 1), confidence, reachable=True) == Offload()


def test_the_policy_is_asked_with_the_history_of_the_text() -> None:
    numbers = {"thresholds": {4: 0.5}, "unsure": 1, "stay": 1}
    averaging = Rules(
        mode="collaborative",
        policy=build("moving_average", numbers),
        on_cloud_loss="degrade",
    )
    start, sure = averaging.policy.start(), [Asked(4, 0, Signals(0.9, 1.0, 0.0, 0.5))]
    after_unsure = averaging.policy.after(start, [Asked(4, 0, Signals(0.1, 1.0, 0.0, 0.5))])
    assert decide(averaging, sure, start, cloud_reachable=True) == KEEP
    assert decide(averaging, sure, after_unsure, cloud_reachable=True) == Offload()


def test_a_chance_is_that_of_the_exits_own_calibration() -> None:
    signals = Signals(0.9, 1.0, 0.8, 0.5)
    fits = {4: Logistic((2.0, 0.0, 0.0, 0.0), -1.0)}
    calibrated = Rules("collaborative", rules("collaborative").policy, "degrade", chances=fits)
    assert calibrated.chance(4, signals) == fits[4].chance(signals)
    assert calibrated.chance(2, signals) is None


@pytest.mark.parametrize(
    ("mode", "on_loss"),
    [
        ("standalone", "degrade"),
        ("collaborative", "degrade"),
        ("cloud", "error"),
        ("split", "error"),
    ],
)
def test_modes_that_promise_the_full_models_text_fail_by_default(
    mode: Mode, on_loss: OnCloudLoss
) -> None:
    assert default_on_cloud_loss(mode) == on_loss
