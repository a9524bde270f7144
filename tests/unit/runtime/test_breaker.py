"""A breaker under a clock that only moves when told to."""

from dataclasses import dataclass, field

from shared.runtime.breaker import JITTER, Breaker, jittered


@dataclass
class Timed:
    now: float = 100.0
    breaker: Breaker = field(init=False)

    def __post_init__(self) -> None:
        self.breaker = Breaker(0.5, 8.0, clock=lambda: self.now, jitter=lambda: 1.0)

    def rested(self) -> bool:
        """Whether it may be tried at this moment (asked anew: a type checker takes properties to
        stay what they were).
        """
        return self.breaker.rested

    def failed_and_rested(self) -> float:
        """Seconds it rests after one more failure."""
        assert self.breaker.failed("refused")
        pause = self.breaker.seconds_to_retry
        self.now += pause
        return pause


def test_pauses_double_up_to_the_longest() -> None:
    timed = Timed()
    assert [timed.failed_and_rested() for _ in range(7)] == [0.5, 1, 2, 4, 8, 8, 8]


def test_what_fails_while_it_rests_is_the_same_outage() -> None:
    timed = Timed()
    assert timed.breaker.failed("refused")
    assert not timed.breaker.failed("timeout")
    assert (timed.breaker.failures, timed.breaker.last_failure) == (1, "refused")


def test_one_who_tries_keeps_others_away_until_it_is_known_what_came_of_it() -> None:
    timed = Timed()
    timed.failed_and_rested()
    assert timed.rested()
    timed.breaker.hold(0.25)
    assert not timed.rested()
    timed.now += 0.25
    assert timed.rested()
    timed.breaker.hold(0.25)
    timed.breaker.succeeded()
    assert timed.rested()


def test_a_try_that_fails_at_once_is_a_failure_of_its_own() -> None:
    timed = Timed()
    timed.failed_and_rested()
    timed.breaker.hold(5.0)
    assert timed.breaker.failed("refused")
    assert timed.breaker.seconds_to_retry == 1.0
    timed.now += 1.0
    assert timed.rested()


def test_jitter_goes_both_ways_and_not_far() -> None:
    factors = [jittered() for _ in range(200)]
    assert 1 - JITTER <= min(factors) < 1 < max(factors) <= 1 + JITTER
