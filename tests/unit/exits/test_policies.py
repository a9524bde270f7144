"""Each policy keeps what it says it keeps; a stricter one never lets a position leave earlier."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.exits.policies import build, policies
from shared.exits.policy import Asked, Policy, asked_until_kept, walk
from tests.unit.exits.sayings import LAYERS, asked, positions, shares, texts, thresholds

LAST = LAYERS[-1] + 1  # where a position goes that no exit kept
SOME: Mapping[str, Mapping[str, Any]] = {
    "single": {"threshold": 0.5},
    "per_exit": {"thresholds": dict.fromkeys(LAYERS, 0.5)},
    "chance": {"thresholds": dict.fromkeys(LAYERS, 0.5)},
    "patience": {"exits": 2},
    "moving_average": {"thresholds": dict.fromkeys(LAYERS, 0.5), "unsure": 2, "stay": 3},
}


def left(policy: Policy, said: list[Asked], history: object = None) -> int:
    history = policy.start() if history is None else history
    return asked_until_kept(policy, said, history)[0] or LAST


def history_of(policy: Policy, text: list[list[Asked]]) -> Any:
    history = policy.start()
    for said in text:
        history = policy.after(history, asked_until_kept(policy, said, history)[1])
    return history


def test_every_policy_of_the_folder_is_here() -> None:
    assert list(policies()) == sorted(SOME)


@given(said=positions(), threshold=shares)
def test_single_is_per_exit_with_one_threshold(said: list[Asked], threshold: float) -> None:
    everywhere = build("per_exit", {"thresholds": dict.fromkeys(LAYERS, threshold)})
    assert left(build("single", {"threshold": threshold}), said) == left(everywhere, said)


@pytest.mark.parametrize("name", ["per_exit", "chance", "moving_average"])
@given(said=positions(), before=texts, given=thresholds, layer=st.sampled_from(LAYERS), by=shares)
def test_a_raised_threshold_never_lets_a_position_leave_earlier(
    *,
    name: str,
    said: list[Asked],
    before: list[list[Asked]],
    given: dict[int, float],
    layer: int,
    by: float,
) -> None:
    raised = given | {layer: min(1.0, given[layer] + by)}
    low, high = (build(name, {**SOME[name], "thresholds": each}) for each in (given, raised))
    history = history_of(low, before)
    assert left(low, said, history) <= left(high, said, history)


@given(said=positions(), exits=st.integers(1, 4))
def test_more_patience_never_lets_a_position_leave_earlier(said: list[Asked], exits: int) -> None:
    patient, more = (build("patience", {"exits": each}) for each in (exits, exits + 1))
    assert left(patient, said) <= left(more, said)


@pytest.mark.parametrize("name", ["single", "per_exit", "chance"])
@given(said=positions())
def test_threshold_1_keeps_nothing(*, name: str, said: list[Asked]) -> None:
    field = "threshold" if name == "single" else "thresholds"
    value = 1.0 if name == "single" else dict.fromkeys(LAYERS, 1.0)
    assert left(build(name, {field: value}), said) == LAST


@pytest.mark.parametrize("name", sorted(SOME))
@given(before=texts, then=texts)
def test_history_is_a_fold(
    *, name: str, before: list[list[Asked]], then: list[list[Asked]]
) -> None:
    """Who takes a text up where it broke off decides as one who never stopped."""
    policy = build(name, SOME[name])
    whole = list(walk(policy, [*before, *then]))
    history, resumed = history_of(policy, before), []
    for said in then:
        layer, heard = asked_until_kept(policy, said, history)
        history = policy.after(history, heard)
        resumed.append(layer)
    assert whole == [*walk(policy, before), *resumed]
    assert history == history_of(policy, [*before, *then])


def test_each_exit_has_its_own_threshold() -> None:
    policy = build("per_exit", {"thresholds": {"3": 0.9, "6": 0.2}})
    assert left(policy, [asked(3, top=0.5), asked(6, top=0.5)]) == 6
    assert left(policy, [asked(3, top=0.95), asked(6, top=0.5)]) == 3
    assert left(policy, [asked(3, top=0.9), asked(6, top=0.2)]) == LAST


def test_chance_looks_at_nothing_else() -> None:
    policy = build("chance", {"thresholds": {3: 0.9, 6: 0.2}})
    assert left(policy, [asked(3, top=1.0, chance=0.1), asked(6, top=0.0, chance=0.3)]) == 6
    with pytest.raises(ValueError, match="exit 3 is not calibrated"):
        left(policy, [asked(3, top=1.0)])


def test_patience_counts_the_exits_that_agree_last() -> None:
    said = [asked(3, token=1), asked(6, token=2), asked(9, token=2)]
    assert [left(build("patience", {"exits": n}), said) for n in (1, 2, 3)] == [3, 9, LAST]


def test_moving_average_stays_with_the_cloud_after_unsure_tokens() -> None:
    numbers = {"thresholds": {3: 0.5}, "newest": 1.0, "unsure": 2, "stay": 3}
    tops = [0.9, 0.1, 0.9, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9]
    kept = list(walk(build("moving_average", numbers), [[asked(top=top)] for top in tops]))
    assert kept == [3, None, 3, None, None, None, None, None, 3]


def test_moving_average_weighs_each_exits_own_past() -> None:
    policy = build("moving_average", {"thresholds": {3: 0.5, 6: 0.5}, "newest": 0.5})
    first = [asked(3, top=0.2), asked(6, top=1.0)]
    history = policy.after(policy.start(), first)
    assert left(policy, [asked(3, top=0.7), asked(6, top=0.1)], history) == 6  # 0.45, then 0.55
    calibrated = [asked(3, top=0.2, chance=0.9)]
    assert left(policy, calibrated, history) == 3  # 0.55


def test_an_exit_not_asked_keeps_its_average() -> None:
    policy = build("moving_average", {"thresholds": {3: 0.5, 6: 0.5}})
    history = policy.after(policy.start(), [asked(3, top=0.2), asked(6, top=0.4)])
    assert dict(policy.after(history, [asked(3, top=0.9)]).averages)[6] == 0.4


@pytest.mark.parametrize("name", sorted(SOME))
def test_numbers_make_the_same_policy_again(name: str) -> None:
    policy = build(name, SOME[name])
    assert policy.name == name
    assert build(name, policy.numbers()) == policy


@pytest.mark.parametrize(
    ("name", "numbers", "told"),
    [
        ("patient", {}, "'patient' is none of chance, moving_average"),
        ("single", {}, "single needs threshold"),
        ("single", {"threshold": 0.5, "stay": 1}, "single has no stay"),
        ("single", {"threshold": 1.5}, r"is 1.5; allowed: 0 <= x <= 1"),
        ("single", {"threshold": "0.5"}, "threshold is '0.5'; allowed: a number"),
        ("single", {"threshold": True}, "threshold is True"),
        ("per_exit", {"thresholds": {}}, "name no exit"),
        ("per_exit", {"thresholds": 0.5}, "allowed: a threshold for each layer"),
        ("per_exit", {"thresholds": {"x": 0.5}}, "'x' is no layer"),
        ("chance", {"thresholds": {"3": float("nan")}}, "exit 3 is nan"),
        ("patience", {"exits": 0}, "exits is 0; allowed: 1 or more"),
        ("patience", {"exits": 1.5}, "exits is 1.5; allowed: a whole number"),
        ("moving_average", {"thresholds": {"3": 0.5}, "newest": 0}, "newest is 0.0"),
        ("moving_average", {"thresholds": {"3": 0.5}, "unsure": 0}, "unsure is 0"),
    ],
)
def test_what_makes_no_policy_is_named(name: str, numbers: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build(name, numbers)


def test_thresholds_are_for_the_exits_there_are() -> None:
    policy = build("per_exit", {"thresholds": {3: 0.5, 6: 0.5}})
    policy.require_layers([6, 3])
    for layers in ([3], [3, 6, 9], [4, 6]):
        with pytest.raises(ValueError, match=r"thresholds of per_exit are for the exits \[3, 6\]"):
            policy.require_layers(layers)
    build("single", {"threshold": 0.5}).require_layers([1, 2])
