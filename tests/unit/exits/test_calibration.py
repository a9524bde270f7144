"""The calibrated chance, and the file it comes from."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BadModel
from shared.exits.calibration import (
    Agreement,
    ExitFit,
    Logistic,
    Target,
    file_of,
    read_agreement,
    text_of,
)
from shared.exits.signals import FEATURES, Signals

FIT = ExitFit(Logistic((4.0, -0.5, 1.0, -0.25), -1.0), 1000, 0.2, 0.01)
AGREEMENT = Agreement(
    "beef",
    {3: FIT, 6: ExitFit(Logistic((1.0, 0.0, 0.0, 0.0), 0.0), 900, 0.3, 0.02)},
    (Target(0.01, {3: 0.97, 6: 0.95}, 0.8), Target(0.05, {3: 0.9, 6: 0.8}, 0.6)),
    "cafe",
)


def test_the_chance_is_the_logistic_of_the_weighted_signals() -> None:
    signals = Signals(top=0.8, entropy=0.6, margin=0.7, sharp=0.2)
    score = 4 * 0.8 - 0.5 * 0.6 + 0.7 - 0.25 * 0.2 - 1
    assert FIT.logistic.chance(signals) == pytest.approx(1 / (1 + math.exp(-score)), abs=1e-15)
    assert signals.values == tuple(getattr(signals, name) for name in FEATURES)


@given(bias=st.floats(-1e6, 1e6), weights=st.tuples(*[st.floats(-1e6, 1e6)] * 4))
def test_no_score_is_too_large(bias: float, weights: tuple[float, float, float, float]) -> None:
    assert 0 <= Logistic(weights, bias).chance(Signals(1.0, 11.0, 1.0, 9.0)) <= 1


@pytest.mark.parametrize(
    ("asked", "layer_3", "offloaded"),
    [(0.01, 0.97, 0.8), (0.049, 0.97, 0.8), (0.05, 0.9, 0.6), (1.0, 0.9, 0.6), (0.009, 1.0, 1.0)],
)
def test_the_largest_target_not_above_the_wish_holds(
    asked: float, layer_3: float, offloaded: float
) -> None:
    target = AGREEMENT.target(asked)
    assert (target.thresholds[3], target.offloaded) == (layer_3, offloaded)
    assert target.max_disagreement <= asked


def test_what_is_written_is_read(tmp_path: Path) -> None:
    AGREEMENT.write(tmp_path / file_of())
    assert read_agreement(tmp_path / "agreement.json") == AGREEMENT
    assert read_agreement(tmp_path / file_of((3, 6))) is None
    assert file_of((3, 6)) == "agreement-3-6.json"
    assert file_of(text="sampled") == "agreement-sampled.json"
    assert file_of((3, 6), "sampled") == "agreement-sampled-3-6.json"


def test_a_temperature_says_which_calibration_holds() -> None:
    assert list(map(text_of, (0.0, 0.001, 1.0, 1.001))) == ["greedy", "sampled", "sampled", None]
    assert [text_of(0.0, 1.0), text_of(0.0, 1.1), text_of(1.0, 0.9)] == ["greedy", None, None]


def test_the_form_of_the_file(tmp_path: Path) -> None:
    AGREEMENT.write(tmp_path / file_of())
    content = json.loads((tmp_path / file_of()).read_text())
    assert content["exits"][0] == {
        "layer": 3,
        "weights": [4.0, -0.5, 1.0, -0.25],
        "bias": -1.0,
        "tokens": 1000,
        "ece_before": 0.2,
        "ece_after": 0.01,
    }
    assert content["targets"][0] == {
        "max_disagreement": 0.01,
        "thresholds": {"3": 0.97, "6": 0.95},
        "offloaded": 0.8,
    }
    rest = {name: content[name] for name in content.keys() - {"exits", "targets"}}
    assert rest == {
        "format": 1,
        "kind": "logistic",
        "version": 1,
        "model_fingerprint": "beef",
        "exits_sha256": "cafe",
        "text": "greedy",
        "features": ["top", "entropy", "margin", "sharp"],
    }


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"kind": "isotonic"},
        {"version": 2},
        {"text": "beam"},
        {"features": ["entropy", "top", "margin", "sharp"]},
        {"exits": [{"layer": 3}]},
        {"exits": None},
        {"targets": [{"max_disagreement": 0.1, "thresholds": {"3": 0.5}, "offloaded": 0.1}]},
        {"targets": [*reversed(AGREEMENT.content()["targets"])]},
        {"targets": [{**AGREEMENT.content()["targets"][0], "max_disagreement": 0}]},
        {"targets": [{**AGREEMENT.content()["targets"][0], "thresholds": {"3": 2, "6": 0}}]},
        {"exits": [{**AGREEMENT.content()["exits"][0], "weights": [1.0, 2.0]}]},
        {"exits": [{**AGREEMENT.content()["exits"][0], "bias": float("inf")}]},
    ],
    ids=str,
)
def test_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / file_of()).write_text(json.dumps(AGREEMENT.content() | change))
    with pytest.raises(BadModel, match=r"agreement\.json"):
        read_agreement(tmp_path / file_of())


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / file_of()).write_text('["format"')
    with pytest.raises(BadModel, match=r"agreement\.json"):
        read_agreement(tmp_path / file_of())
