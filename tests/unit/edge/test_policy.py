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

KEEP = Keep(4)


def rules(mode: Mode, threshold: float = 0.8, on_loss: OnCloudLoss = "degrade") -> Rules:
    return Rules(mode=mode, thresholds={4: threshold}, on_cloud_loss=on_loss)


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
    decided = decide(rules(mode, on_loss=on_loss), 4, confidence, cloud_reachable=reachable)
    assert decided == expected


@given(confidence=st.floats(0, 1, exclude_min=True))
def test_threshold_0_keeps_every_token_and_1_none(confidence: float) -> None:
    for reachable in (True, False):
        assert decide(rules("collaborative", 0), 4, confidence, cloud_reachable=reachable) == KEEP
    assert decide(rules("collaborative", 1), 4, confidence, cloud_reachable=True) == Offload()


@given(confidence=st.floats(0, 1), lower=st.floats(0, 1), higher=st.floats(0, 1))
def test_a_higher_threshold_never_keeps_more(
    confidence: float, lower: float, higher: float
) -> None:
    lower, higher = sorted((lower, higher))
    if rules("collaborative", higher).sure(4, confidence):
        assert rules("collaborative", lower).sure(4, confidence)


def test_every_exit_has_a_threshold_of_its_own() -> None:
    both = Rules(mode="collaborative", thresholds={3: 0.9, 6: 0.2}, on_cloud_loss="degrade")
    assert decide(both, 3, 0.5, cloud_reachable=True) == Offload()
    assert decide(both, 6, 0.5, cloud_reachable=True) == Keep(6)


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
