"""How much each caller may ask for: requests and tokens a minute, and requests at once.

A bucket for each, that holds one minute's worth and fills evenly. What is taken is counted in
60,000,000,000ths of a request or a token, and time in nanoseconds, so that nothing is ever rounded:
who waits for as long as a refusal says is let in, if they asked for nothing else meanwhile. A
refusal takes nothing, so asking too early makes nobody wait longer. Knows no HTTP.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from shared.access.keys import Limits
from shared.errors import Invalid, Limited

_MINUTE = 60_000_000_000  # nanoseconds, and parts of a request or a token
# Callers remembered at once. Whoever is forgotten has full buckets, unless there are more than
# this: then the one seen longest ago begins anew.
MOST_CLIENTS = 16_384
# Callers looked at, for each that comes, whether they can be forgotten: more than one, so that the
# number remembered falls.
_LOOKED_AT = 2
# A caller whose requests are all under way: when the first of them ends nobody knows.
BUSY_SECONDS = 1.0


@dataclass(slots=True)
class _Bucket:
    """What was taken and has not come back yet, as it was at `seen`."""

    taken: int = 0
    seen: int = 0

    def wait(self, amount: int, per_minute: int, now: int) -> int:
        """Nanoseconds until so much can be taken; 0 where it can be now."""
        self.refill(per_minute, now)
        over = self.taken + (amount - per_minute) * _MINUTE
        return -(-over // per_minute) if over > 0 else 0

    def refill(self, per_minute: int, now: int) -> None:
        if self.taken:
            self.taken = max(0, self.taken - per_minute * (now - self.seen))
        self.seen = now

    def give_back(self, amount: int) -> None:
        """Give back what was taken and not needed."""
        self.taken = max(0, self.taken - amount * _MINUTE)


@dataclass(slots=True)
class _Client:
    """`given` are the limits of its key, `limits` those it has."""

    given: Limits
    limits: Limits
    requests: _Bucket = field(default_factory=_Bucket)
    tokens: _Bucket = field(default_factory=_Bucket)
    running: int = 0

    def rested(self, now: int) -> bool:
        """Whether forgetting them changes nothing."""
        if self.running:
            return False
        for bucket, per_minute in (
            (self.requests, self.limits.requests_per_minute),
            (self.tokens, self.limits.tokens_per_minute),
        ):
            if per_minute:
                bucket.refill(per_minute, now)
                if bucket.taken:
                    return False
        return True


class Admission:
    """One request that was let in, until it is left; used as a context manager.

    `asked` are the tokens it was charged for, of which `answer` are not the prompt's, `used` those
    it needed: what is left of them is given back at the end, however it ends.
    """

    __slots__ = ("_client", "_counts", "_limiter", "_over", "answer", "asked", "used")

    def __init__(self, limiter: "Limiter", client: _Client, *, counts: bool) -> None:
        self._limiter = limiter
        self._client = client
        self._counts = counts
        self._over = False
        self.asked = 0
        self.answer = 0
        self.used = 0

    def charge(self, tokens: int, field: str = "parameters.max_new_tokens") -> None:
        """Take so many tokens; `field` of the request says how many.

        Raises:
            Limited: not now. The request itself counts: finding out what it asks for took work.
            Invalid: more than a whole minute's.
        """
        self._limiter.charge(self._client, tokens, field)
        self.asked += tokens

    def withdraw(self) -> None:
        """The request was turned away for another reason: it does not count."""
        self._client.requests.give_back(1)

    def leave(self) -> None:
        """The request has ended."""
        if not self._over:
            self._over = True
            self._client.running -= self._counts
            if self.asked > self.used:
                self._client.tokens.give_back(self.asked - self.used)

    def __enter__(self) -> "Admission":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()


class Limiter:
    """Lets requests in by what their callers have asked for lately; used on one thread.

    Args:
        defaults: of callers whose keys say nothing else; `None` is no bound.
        clock: nanoseconds, monotonic.
        most: callers remembered.
    """

    def __init__(
        self,
        defaults: Limits | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        most: int = MOST_CLIENTS,
    ) -> None:
        self._defaults = defaults or Limits()
        self._clock = clock
        self._most = most
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def admit(self, client: str, limits: Limits, *, counts: bool = True) -> Admission:
        """Let one request of a caller in, or not; to be left when it ends. One that does not count
        as a request may still be charged for tokens.

        Raises:
            Limited: it has as many requests under way as it may, or has sent as many as it may.
        """
        own, now = self._known(client, limits), self._clock()
        if not counts:
            return Admission(self, own, counts=False)
        most, per_minute = own.limits.concurrent, own.limits.requests_per_minute
        if most and own.running >= most:
            raise Limited(
                f"{own.running} of your requests are being served, the most allowed at once",
                retry_after=BUSY_SECONDS,
            )
        if per_minute:
            if wait := own.requests.wait(1, per_minute, now):
                raise Limited(
                    f"you have sent the {per_minute} requests a minute that are allowed",
                    retry_after=wait / 1e9,
                )
            own.requests.taken += _MINUTE
        own.running += 1
        return Admission(self, own, counts=True)

    def charge(self, own: _Client, tokens: int, field: str) -> None:
        """See `Admission.charge`."""
        per_minute = own.limits.tokens_per_minute
        if not per_minute:
            return
        if tokens > per_minute:
            raise Invalid(
                f"{field}: {tokens} tokens, prompt and answer, are more than the {per_minute} "
                f"tokens a minute that are allowed",
                field=field,
            )
        now = self._clock()
        if wait := own.tokens.wait(tokens, per_minute, now):
            again = own.limits.requests_per_minute
            if again:
                wait = max(wait, own.requests.wait(1, again, now))
            raise Limited(
                f"you have asked for the {per_minute} tokens a minute that are allowed",
                retry_after=wait / 1e9,
            )
        own.tokens.taken += tokens * _MINUTE

    def _known(self, client: str, given: Limits) -> _Client:
        """The caller with the limits it has now: its key may have been changed."""
        own = self._clients.get(client)
        if own is None:
            self._make_place()
            own = self._clients[client] = _Client(given, self._effective(given))
        else:
            self._clients.move_to_end(client)
            if own.given is not given:
                own.given, own.limits = given, self._effective(given)
        return own

    def _effective(self, given: Limits) -> Limits:
        defaults = self._defaults
        return Limits(
            _either(given.requests_per_minute, defaults.requests_per_minute),
            _either(given.tokens_per_minute, defaults.tokens_per_minute),
            _either(given.concurrent, defaults.concurrent),
        )

    def _make_place(self) -> None:
        """Forget callers seen longest ago: those whose buckets are full, and where there are too
        many the first that has no request under way.
        """
        now, clients = self._clock(), self._clients
        for _ in range(min(_LOOKED_AT, len(clients))):
            name, oldest = next(iter(clients.items()))
            if oldest.running:  # their number is bounded by the requests there can be
                clients.move_to_end(name)
            elif oldest.rested(now) or len(clients) >= self._most:
                del clients[name]
            else:
                return


def _either(given: int | None, default: int | None) -> int | None:
    return default if given is None else given
