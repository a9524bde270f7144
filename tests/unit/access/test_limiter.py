"""Limits a caller has: exact against a plain account of what was taken when, right about when to
come back, and bounded in memory.
"""

import math
import random
from collections import deque
from contextlib import suppress

import pytest

from shared.access import Limits
from shared.access.limiter import Admission, Limiter
from shared.errors import Invalid, Limited
from tests.support.size import Size

SECOND = 1_000_000_000


class Clock:
    """Time in nanoseconds, as told."""

    def __init__(self) -> None:
        self.now = 5 * SECOND

    def __call__(self) -> int:
        return self.now

    def pass_(self, seconds: float) -> None:
        """Let time pass: never less than this, as nobody's clock is late."""
        self.now += math.ceil(seconds * SECOND)


def _limiter(clock: Clock, **limits: int) -> Limiter:
    return Limiter(Limits(**limits), clock)


def test_a_minute_of_requests_may_come_at_once_and_the_next_when_it_is_told() -> None:
    clock = Clock()
    limiter = _limiter(clock, requests_per_minute=6)
    for _ in range(6):
        limiter.admit("a", Limits()).leave()
    with pytest.raises(Limited) as refused:
        limiter.admit("a", Limits())
    assert refused.value.retry_after == 10
    clock.pass_(9.999_999)
    with pytest.raises(Limited):
        limiter.admit("a", Limits())
    limiter.admit("b", Limits()).leave()
    clock.pass_(0.000_001)
    limiter.admit("a", Limits()).leave()


@pytest.mark.parametrize("seed", range(4))
def test_who_waits_as_told_is_let_in_and_who_does_not_wait_is_not_made_to_wait_longer(
    seed: int, size: Size
) -> None:
    chance = random.Random(seed)
    for _ in range(size.pick(short=50, long=5000)):
        clock = Clock()
        limits = Limits(chance.randint(1, 90), chance.randint(1, 9000))
        limiter = Limiter(limits, clock)
        for _ in range(60):
            tokens = chance.randint(0, limits.tokens_per_minute or 0)
            used = chance.randint(0, tokens)
            refusal = _refused(limiter, tokens, used)
            if refusal and chance.random() < 0.5:
                # How many tokens it asks for is looked at once it is let in as a request.
                for may_be_refused in ("tokens", None):
                    what, wait = refusal
                    assert 0 < wait <= 60
                    clock.pass_(wait)
                    refusal = _refused(limiter, tokens, used)
                    if refusal is None:
                        break
                    assert what == "requests"
                    assert refusal[0] == may_be_refused
            clock.now += chance.choice((0, 0, 1, chance.randrange(SECOND)))


def _refused(limiter: Limiter, tokens: int, used: int) -> tuple[str, float] | None:
    """For what a request is refused, and how long it is to wait; `None` if it is not."""
    try:
        _ask(limiter, tokens, used)
    except Limited as refusal:
        what = "tokens" if "tokens a minute" in refusal.message else "requests"
        return what, refusal.retry_after or 0
    return None


def _ask(limiter: Limiter, tokens: int, used: int) -> None:
    with limiter.admit("a", Limits()) as admission:
        admission.charge(tokens)
        admission.used = used


@pytest.mark.parametrize("seed", range(4))
def test_no_minute_holds_more_than_two_minutes_worth_and_all_of_it_can_be_had(seed: int) -> None:
    """A bucket of one minute that fills in one: whatever is asked, the sum of what was let in over
    any time t is at most (1 + t / minute) times the limit, and greed gets just that.
    """
    chance, clock = random.Random(seed), Clock()
    per_minute = chance.randint(1, 300)
    limiter = _limiter(clock, tokens_per_minute=per_minute)
    taken: deque[tuple[int, int]] = deque()
    begin = clock.now
    while clock.now - begin < 600 * SECOND:
        tokens = chance.randint(1, max(1, per_minute // 3))
        try:
            _ask(limiter, tokens, tokens)
            taken.append((clock.now, tokens))
        except Limited as refusal:
            clock.pass_(refusal.retry_after or 0)
    for first, (since, _) in enumerate(taken):
        total = 0
        for when, tokens in list(taken)[first:]:
            total += tokens
            assert total * 60 * SECOND <= per_minute * (60 * SECOND + when - since)
    assert sum(tokens for _, tokens in taken) >= 10 * per_minute


def test_tokens_that_were_not_needed_come_back_also_when_the_request_fails() -> None:
    clock = Clock()
    limiter = _limiter(clock, tokens_per_minute=100)
    with suppress(ZeroDivisionError), limiter.admit("a", Limits()) as admission:
        admission.charge(100)
        admission.used = 30
        raise ZeroDivisionError
    _ask(limiter, 70, 70)
    with pytest.raises(Limited) as refused:
        _ask(limiter, 1, 1)
    assert refused.value.retry_after == pytest.approx(0.6)


def test_what_is_given_back_is_given_back_once_and_fills_no_bucket_beyond_its_brim() -> None:
    clock = Clock()
    limiter = _limiter(clock, tokens_per_minute=100)
    with limiter.admit("a", Limits()) as admission:
        admission.charge(100)
        clock.pass_(600)
        admission.leave()
    _ask(limiter, 100, 100)
    with pytest.raises(Limited):
        _ask(limiter, 1, 1)


def test_more_than_a_minutes_tokens_will_never_do_and_is_not_told_to_come_back() -> None:
    limiter = _limiter(Clock(), tokens_per_minute=100)
    with pytest.raises(Invalid, match=r"101 tokens.* the 100 tokens a minute") as refused:
        _ask(limiter, 101, 0)
    assert refused.value.field == "parameters.max_new_tokens"


def test_requests_at_once_are_counted_until_they_end() -> None:
    limiter = _limiter(Clock(), concurrent=2)
    held = [limiter.admit("a", Limits()), limiter.admit("a", Limits())]
    with pytest.raises(Limited, match="2 of your requests are being served") as refused:
        limiter.admit("a", Limits())
    assert refused.value.retry_after == 1
    limiter.admit("b", Limits())
    held.pop().leave()
    limiter.admit("a", Limits())


def test_a_request_turned_away_for_another_reason_does_not_count_and_one_without_tokens_does() -> (
    None
):
    clock = Clock()
    limiter = _limiter(clock, requests_per_minute=2, tokens_per_minute=10)
    for _ in range(5):
        with limiter.admit("a", Limits()) as admission:
            admission.withdraw()
    _ask(limiter, 10, 10)
    with pytest.raises(Limited) as refused:
        _ask(limiter, 1, 1)
    # A token is back in 6 s; a request, of which both were taken, in 30.
    assert refused.value.retry_after == 30


def test_a_keys_own_limits_go_before_the_services_and_change_with_it() -> None:
    limiter = _limiter(Clock(), requests_per_minute=1, concurrent=1)
    own = Limits(requests_per_minute=3)
    for _ in range(3):
        limiter.admit("a", own).leave()
    with pytest.raises(Limited):
        limiter.admit("a", own)
    running = limiter.admit("a", Limits(requests_per_minute=4))
    with pytest.raises(Limited, match="are being served"):
        limiter.admit("a", Limits(requests_per_minute=4))
    running.leave()


def test_callers_are_forgotten_when_that_changes_nothing_or_when_there_are_too_many() -> None:
    clock = Clock()
    limiter = Limiter(Limits(requests_per_minute=60), clock, most=100)
    for number in range(100):
        limiter.admit(f"early-{number}", Limits()).leave()
    assert len(limiter) == 100
    clock.pass_(2)
    for number in range(100):
        limiter.admit(f"late-{number}", Limits()).leave()
    assert len(limiter) <= 100
    running: list[Admission] = [limiter.admit(f"held-{n}", Limits(concurrent=1)) for n in range(50)]
    for number in range(1000):
        limiter.admit(f"crowd-{number}", Limits()).leave()
    assert len(limiter) <= 100 + 2
    for number in range(50):
        with pytest.raises(Limited):
            limiter.admit(f"held-{number}", Limits(concurrent=1))
    for each in running:
        each.leave()
    clock.pass_(60)
    for number in range(50):
        limiter.admit(f"new-{number}", Limits()).leave()
    assert len(limiter) <= 52
