"""A service told to leave: when it is ready, open and patient, second by second."""

import pytest

from shared.runtime.lifecycle import Lifecycle


class Clock:
    """Seconds a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_ends_that_was_not_told_to() -> None:
    clock = Clock()
    lifecycle = Lifecycle(0, 0, clock)
    clock.now += 1e6
    assert (lifecycle.draining, lifecycle.closing, lifecycle.over) == (False, False, False)
    assert Lifecycle(5, 10, clock).seconds_left == 10


@pytest.mark.parametrize(
    ("after", "closing", "over", "left"),
    [
        (0.0, False, False, 10),
        (4.9, False, False, 10),
        (5.0, True, False, 10),
        (11.0, True, False, 4),
        (15.0, True, True, 0),
        (99.0, True, True, 0),
    ],
)
def test_it_drains_then_closes_then_cuts_short(
    after: float, left: float, *, closing: bool, over: bool
) -> None:
    clock = Clock()
    lifecycle = Lifecycle(5, 10, clock)
    assert lifecycle.leave()
    clock.now += after
    assert (lifecycle.draining, lifecycle.closing, lifecycle.over) == (True, closing, over)
    assert lifecycle.seconds_left == left


def test_without_a_time_to_drain_it_closes_at_once() -> None:
    lifecycle = Lifecycle(0, 10, Clock())
    lifecycle.leave()
    assert lifecycle.closing
    assert not lifecycle.over


def test_told_twice_at_once_is_told_once_and_later_with_emphasis() -> None:
    """The terminal and the parent of a process both pass a Ctrl-C on."""
    clock = Clock()
    lifecycle = Lifecycle(5, 10, clock)
    assert lifecycle.leave()
    clock.now += 0.5
    assert lifecycle.leave()
    clock.now += 0.6
    assert not lifecycle.leave()
    clock.now += 4
    assert lifecycle.closing  # the first time counts
