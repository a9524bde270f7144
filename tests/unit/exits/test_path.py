"""The path from keeping nothing to keeping everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.exits.path import Path, Point

PATH = Path(
    [
        Point(0.01, {3: 0.99, 6: 0.97}),
        Point(0.02, {3: 0.96, 6: 0.95}),
        Point(0.1, {3: 0.8, 6: 0.7}),
    ]
)


def test_what_was_calibrated_is_in_force_at_its_level() -> None:
    for point in PATH.points:
        assert PATH.at(point.level) == pytest.approx(point.thresholds)


def test_what_was_certified_is_in_force_to_the_last_bit() -> None:
    points = [Point(0.01, {3: 0.1296}), Point(0.03, {3: 0.1111}), Point(0.1, {3: 0.0703})]
    assert [Path(points).at(point.level) for point in points] == [p.thresholds for p in points]


def test_the_path_ends_with_nothing_and_everything() -> None:
    assert PATH.at(0.0) == {3: 1.0, 6: 1.0}
    assert PATH.at(1.0) == {3: 0.0, 6: 0.0}
    assert PATH.at(2.0) == {3: 0.0, 6: 0.0}


def test_between_levels_thresholds_go_along_their_logarithm() -> None:
    assert PATH.at(0.02 * 5**0.5)[3] == pytest.approx(0.88)
    assert PATH.at(0.005)[6] == pytest.approx(0.985)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_level_keeps_no_less(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert all(PATH.at(low)[layer] >= PATH.at(high)[layer] - 1e-12 for layer in (3, 6))


def test_a_target_held_lower_opens_no_exit_beyond_its_own() -> None:
    # Lower asks more of exit 3, and less of exit 6.
    path = Path([Point(0.01, {3: 0.99, 6: 0.6}), Point(0.1, {3: 0.8, 6: 0.7})])
    assert path.held(0.1, 0.1) == pytest.approx({3: 0.8, 6: 0.7})
    assert path.held(0.1, 0.01) == pytest.approx({3: 0.99, 6: 0.7})
    assert path.held(0.01, 0.0) == {3: 1.0, 6: 1.0}


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Point(0.0, {3: 0.9})],
        [Point(1.0, {3: 0.9})],
        [Point(0.02, {3: 0.9}), Point(0.01, {3: 0.8})],
        [Point(0.01, {3: 0.9}), Point(0.02, {6: 0.8})],
    ],
)
def test_what_is_no_path_is_refused(points: list[Point]) -> None:
    with pytest.raises(ValueError, match=r"level"):
        Path(points)
