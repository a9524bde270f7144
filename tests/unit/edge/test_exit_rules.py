"""Which exit policy decides: a request's wish before the deployment's default, and refusals that
say what is missing.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.edge.exit_rules import ExitRules, RuleBook, exit_rules
from services.edge.settings import Settings
from shared.errors import BadModel, Invalid
from shared.exits.calibration import FILE, Target, file_of
from shared.exits.policies import build
from tests.support.agreements import made_up

THRESHOLDS = {3: 0.8, 6: 0.7}
NEITHER: Mapping[str, None] = {"threshold": None, "max_disagreement": None}


def book(folder: Path, **given: Any) -> RuleBook:
    usual: dict[str, Any] = {"policy": "per_exit", "numbers": {}, "max_disagreement": None}
    return exit_rules(folder, "beef", THRESHOLDS, **(usual | given))


def rules(folder: Path, **given: Any) -> ExitRules:
    return book(folder, **given).of(0)


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    made_up("beef", [3, 6]).write(tmp_path / FILE)
    return tmp_path


def test_without_a_wish_each_exit_has_the_bundles_threshold(tmp_path: Path) -> None:
    found = rules(tmp_path)
    assert found.policy(**NEITHER) == build("per_exit", {"thresholds": THRESHOLDS})
    assert found.chances == {}


def test_a_threshold_is_that_of_all_exits(calibrated: Path) -> None:
    for found in (rules(calibrated), rules(calibrated, max_disagreement=0.1)):
        policy = found.policy(threshold=0.4, max_disagreement=None)
        assert policy == build("single", {"threshold": 0.4})


@pytest.mark.parametrize(("asked", "threshold"), [(0.02, 0.9), (0.09, 0.9), (1.0, 0.5), (0.01, 1)])
def test_a_target_has_the_thresholds_it_was_calibrated_with(
    calibrated: Path, asked: float, threshold: float
) -> None:
    policy = rules(calibrated).policy(threshold=None, max_disagreement=asked)
    assert policy == build("chance", {"thresholds": {3: threshold, 6: threshold}})
    usual = rules(calibrated, max_disagreement=asked)
    assert usual.policy(**NEITHER) == policy
    other = usual.policy(threshold=None, max_disagreement=0.5)
    assert other == build("chance", {"thresholds": {3: 0.5, 6: 0.5}})


def test_whoever_holds_a_target_may_move_its_thresholds(calibrated: Path) -> None:
    found, seen = rules(calibrated), list[Target]()

    def moved(target: Target) -> Mapping[int, float]:
        seen.append(target)
        return {layer: threshold / 2 for layer, threshold in target.thresholds.items()}

    found.thresholds_of = moved
    policy = found.policy(threshold=None, max_disagreement=0.03)
    assert policy == build("chance", {"thresholds": {3: 0.45, 6: 0.45}})
    assert [target.max_disagreement for target in seen] == [0.02]


def test_a_target_beside_a_threshold_is_refused(calibrated: Path) -> None:
    with pytest.raises(Invalid, match=r"goes without parameters\.threshold") as refused:
        rules(calibrated).policy(threshold=0.5, max_disagreement=0.02)
    assert refused.value.field == "parameters.max_disagreement"


@pytest.mark.parametrize("targets", [None, {}])
def test_a_target_nobody_calibrated_is_refused(
    tmp_path: Path, targets: dict[float, float] | None
) -> None:
    if targets is not None:
        made_up("beef", [3, 6], targets).write(tmp_path / FILE)
    with pytest.raises(Invalid, match="have no calibrated targets") as refused:
        rules(tmp_path).policy(threshold=None, max_disagreement=0.02)
    assert refused.value.field == "parameters.max_disagreement"
    with pytest.raises(BadModel, match="target of disagreement"):
        rules(tmp_path, max_disagreement=0.02)


def test_the_deployment_may_have_any_policy(calibrated: Path) -> None:
    numbers = {"thresholds": {"3": 0.9, "6": 0.8}}
    for name in ("chance", "moving_average", "per_exit"):
        usual = rules(calibrated, policy=name, numbers=numbers).policy(**NEITHER)
        assert usual == build(name, numbers)
    patient = rules(calibrated, policy="patience", numbers={"exits": 2})
    assert patient.policy(**NEITHER) == build("patience", {"exits": 2})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"policy": "single"}, "needs threshold"),
        ({"policy": "per_exit", "numbers": {"thresholds": {"3": 0.5}}}, r"the exits \[3\]"),
        ({"policy": "chance", "numbers": {"thresholds": THRESHOLDS}}, r"has no agreement\.json"),
    ],
)
def test_a_policy_the_bundle_cannot_have_is_refused(
    tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadModel, match=told):
        rules(tmp_path, **given)


@pytest.mark.parametrize(
    ("fingerprint", "layers", "told"),
    [("dead", [3, 6], "another model"), ("beef", [3], r"exits \[3\]"), ("beef", [3, 5], "5")],
)
def test_a_calibration_of_something_else_is_refused(
    tmp_path: Path, fingerprint: str, layers: list[int], told: str
) -> None:
    made_up(fingerprint, layers).write(tmp_path / FILE)
    with pytest.raises(BadModel, match=told):
        rules(tmp_path)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"exit_policy": "single"}, "needs threshold"),
        ({"exit_policy": "nonsense"}, "is none of chance"),
        ({"exit_numbers": "{"}, "Expecting property name"),
        ({"exit_numbers": "[1]"}, "allowed: a JSON object"),
        ({"exit_numbers": '{"thresholds": {"3": 2}}'}, "the threshold of exit 3 is 2"),
        ({"max_disagreement": "0"}, "greater than 0"),
        (
            {"max_disagreement": "0.1", "exit_policy": "patience", "exit_numbers": '{"exits": 2}'},
            "goes without exit_policy",
        ),
    ],
)
def test_settings_that_make_no_policy_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Settings(bundle=Path("bundle"), **given)


def test_settings_take_numbers_as_json() -> None:
    numbers = '{"thresholds": {"3": 0.5}, "stay": 4}'
    given = Settings(bundle=Path("b"), exit_policy="moving_average", exit_numbers=numbers)
    assert given.policy_numbers == {"thresholds": {"3": 0.5}, "stay": 4}
    assert Settings(bundle=Path("b"), max_disagreement="").max_disagreement is None


NOTHING = build("single", {"threshold": 1.0})


def test_drawn_tokens_have_a_calibration_of_their_own(calibrated: Path) -> None:
    drawn = made_up("beef", [3, 6], {0.05: 0.7})
    replace(drawn, text="sampled").write(calibrated / file_of(text="sampled"))
    found = book(calibrated, max_disagreement=0.1)
    for temperature, threshold in ((0, 0.5), (0.1, 0.7), (1.0, 0.7)):
        policy = found.of(temperature).policy(**NEITHER)
        assert policy == build("chance", {"thresholds": {3: threshold, 6: threshold}})
    assert found.of(0.5).wanted(**NEITHER) == 0.05
    assert found.of(0.5).chances.keys() == {3, 6}
    assert found.of(1.01).chances == {}
    assert found.in_force == {3: 0.5, 6: 0.5}


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ((0.5,), "for tokens that are drawn"),
        ((1.5,), "at temperatures over 1"),
        ((0.0, 1.1), "with a repetition_penalty"),
    ],
)
def test_what_nothing_was_calibrated_for_is_promised_to_nobody(
    calibrated: Path, chosen: tuple[float, ...], why: str
) -> None:
    found = book(calibrated, max_disagreement=0.1).of(*chosen)
    assert found.policy(**NEITHER) == NOTHING
    assert found.wanted(**NEITHER) is None
    with pytest.raises(Invalid, match=why):
        found.policy(threshold=None, max_disagreement=0.02)
    assert found.policy(threshold=0.4, max_disagreement=None) == build("single", {"threshold": 0.4})
    plain = book(calibrated).of(*chosen)
    assert plain.policy(**NEITHER) == build("per_exit", {"thresholds": THRESHOLDS})


def test_a_policy_of_chances_keeps_nothing_where_there_are_none(calibrated: Path) -> None:
    numbers = {"thresholds": {"3": 0.5, "6": 0.5}}
    found = book(calibrated, policy="chance", numbers=numbers)
    assert found.of(0).policy(**NEITHER) == build("chance", numbers)
    assert found.of(0.5).policy(**NEITHER) == NOTHING


def test_a_calibration_on_other_text_is_refused(calibrated: Path) -> None:
    made_up("beef", [3, 6]).write(calibrated / file_of(text="sampled"))
    with pytest.raises(BadModel, match=r"agreement-sampled\.json was measured on greedy text"):
        book(calibrated)


def test_each_way_of_choosing_is_held_by_itself(calibrated: Path) -> None:
    replace(made_up("beef", [3, 6]), text="sampled").write(calibrated / file_of(text="sampled"))
    found = book(calibrated, max_disagreement=0.1)
    found.hold(lambda text, target: target / (2 if text == "sampled" else 1))
    assert found.of(0).policy(**NEITHER).numbers() == {"thresholds": {"3": 0.5, "6": 0.5}}
    moved = found.of(0.5).policy(**NEITHER).numbers()["thresholds"]
    assert 0.5 < moved["3"] < 0.9
