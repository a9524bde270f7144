"""The path to the cloud under a clock that only moves when told to."""

import logging
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.link import RECENT_ANSWERS, Link


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Timed:
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.link = Link(0.5, 8.0, clock=self.clock, jitter=lambda: 1.0)


def test_a_new_link_is_up_and_may_be_tried() -> None:
    link = Timed().link
    assert (link.usable, link.up, link.seconds_to_retry) == (True, True, 0.0)


def test_pauses_double_up_to_the_longest() -> None:
    timed = Timed()
    pauses = []
    for _ in range(7):
        timed.link.failed("refused")
        pauses.append(timed.link.seconds_to_retry)
        timed.clock.now += timed.link.seconds_to_retry
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_thousands_of_failures_are_no_overflow() -> None:
    timed = Timed()
    for _ in range(3000):
        timed.clock.now += 8.0
        timed.link.failed("refused")
    assert timed.link.seconds_to_retry == 8.0


def test_what_fails_while_the_link_rests_is_one_outage() -> None:
    timed = Timed()
    for _ in range(5):
        timed.link.failed("refused")
    assert (timed.link.failures, timed.link.seconds_to_retry) == (1, 0.5)


def test_the_link_rests_exactly_as_long_as_it_says() -> None:
    timed = Timed()
    timed.link.failed("timeout")
    assert timed.link.last_failure == "timeout"
    timed.clock.now += 0.499
    assert (timed.link.usable, timed.link.up) == (False, False)
    assert timed.link.seconds_to_retry == pytest.approx(0.001)
    timed.clock.now += 0.002  # a try is allowed, but nothing is known to be good yet
    assert (timed.link.usable, timed.link.up) == (True, False)


def test_one_success_forgets_every_failure() -> None:
    timed = Timed()
    for _ in range(3):
        timed.link.failed("refused")
    timed.link.succeeded()
    assert (timed.link.usable, timed.link.up, timed.link.last_failure) == (True, True, None)
    timed.link.failed("refused")
    assert timed.link.seconds_to_retry == 0.5


def test_a_cloud_that_does_not_fit_is_not_tried_whatever_the_clock_says() -> None:
    timed = Timed()
    timed.link.refused("another model")
    timed.clock.now += 1e6
    assert not timed.link.usable
    assert not timed.link.up


def test_the_state_is_the_last_thing_known_of_the_cloud() -> None:
    link = Timed().link
    seen = [link.state]
    link.failed("refused")
    seen.append(link.state)
    link.welcomed("fp32", ["collaborative"])
    link.succeeded()
    seen.append(link.state)
    link.failed("timeout")
    link.refused("another model")
    seen.append(link.state)
    link.welcomed("bf16", ["collaborative", "cloud"])
    seen.append(link.state)
    link.succeeded()
    seen.append(link.state)
    assert seen == ["unknown", "lost", "reachable", "unfit", "lost", "reachable"]
    assert (link.cloud_format, link.cloud_modes) == ("bf16", ("collaborative", "cloud"))


def test_each_change_is_logged_once_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    timed = Timed()
    for _ in range(3):
        timed.link.failed("refused")
        timed.clock.now += 10
    for _ in range(3):
        timed.link.welcomed("fp32", ["collaborative"])
        timed.link.succeeded()
    for reason in ("another depth", "another depth", "another model"):
        timed.link.refused(reason)
        timed.link.failed("timeout")
    logged = [
        (r.levelname, r.getMessage(), vars(r).get("reason"), vars(r).get("lost_seconds"))
        for r in caplog.records
    ]
    assert logged == [
        ("WARNING", "the cloud is lost", "refused", None),
        ("INFO", "the cloud is back", None, 30.0),
        ("ERROR", "the cloud does not fit this edge", "another depth", None),
        ("ERROR", "the cloud does not fit this edge", "another model", None),
    ]


def test_a_cloud_met_at_once_is_reachable_not_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    link = Timed().link
    for _ in range(3):
        link.welcomed("fp32", ["collaborative"])
        link.succeeded(0.1)
    assert [record.getMessage() for record in caplog.records] == ["the cloud is reachable"]


@given(trips=st.lists(st.floats(0.001, 10), min_size=1, max_size=30))
def test_the_round_trip_is_the_least_of_the_last_answers(trips: list[float]) -> None:
    link = Timed().link
    estimates = []
    for seconds in trips:
        link.succeeded(seconds)
        estimates.append(link.round_trip_seconds)
    assert estimates == [
        min(trips[max(0, n + 1 - RECENT_ANSWERS) : n + 1]) for n in range(len(trips))
    ]


def test_a_path_that_got_longer_is_known_after_a_dozen_answers() -> None:
    link = Timed().link
    for seconds in (0.01, *[0.1] * RECENT_ANSWERS):
        link.succeeded(seconds)
    assert link.round_trip_seconds == 0.1


@pytest.mark.parametrize("nothing", [None, 0.0, -0.01])
def test_an_answer_without_a_measurable_network_leaves_the_estimate(nothing: float | None) -> None:
    link = Timed().link
    link.succeeded(0.02)
    link.succeeded(nothing)
    assert link.round_trip_seconds == 0.02
