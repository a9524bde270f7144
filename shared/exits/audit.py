"""How often tokens the exits kept are not the full model's, from labels that are not a fair sample.

Kept tokens before a request's last offload are judged by the way (a catch-up pass runs them
anyway): all of them, so nothing is estimated there. Those after it, and those of requests that
never asked, nobody looks at, and they are not like the others: an exit was sure of every one. They
are judged only in requests chosen beforehand with a known probability, by a draw that knows nothing
of the request, and stand for the others: a ratio estimate with weights 1 / probability (Haejek's
form of Horvitz and Thompson's, JASA 47, 1952), whose variance is that between requests, since
tokens of one request err together. Older requests count less and less, so that the estimate follows
the traffic.
"""

from dataclasses import dataclass, field
from math import exp

from shared.exits.intervals import NORMAL, binomial_interval, student_quantile

# Tokens after which a request counts for 1/e.
MEMORY = 50_000
# Where a sample tells too little of it: how alike tokens of one tail are taken to err
# (intra-cluster correlation), and the chosen requests with errors from which on the sample is
# believed as much as this.
ASSUMED_LIKENESS = 0.02
_BELIEVED = 5.0
_LEAST_FREEDOM = 0.5
# Tokens below which what has faded says nothing any more.
_NOTHING = 1e-6


@dataclass(frozen=True, slots=True)
class Audited:
    """What is known of one request's text when it has ended.

    Args:
        tokens: of the text, whoever chose them.
        judged, wrong: kept tokens before its last offload, and those the full model would have
            chosen otherwise.
        tail: kept tokens after it; all there are where the cloud was never asked.
        tail_wrong: of these the wrong ones; None where nobody looked.
        share: the probability, above 0, with which the request had been chosen to be looked at.
    """

    tokens: int
    judged: int
    wrong: int
    tail: int
    tail_wrong: int | None = None
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of all tokens, and the interval that holds the true one in 95 of 100 cases."""

    value: float
    low: float
    high: float


@dataclass(slots=True)
class _Sums:
    """Weighted sums over judged tails of k tokens, d of them wrong, with weights u."""

    tokens: float = 0.0  # u k
    wrong: float = 0.0  # u d
    kk: float = 0.0  # u^2 k^2, and so on
    kd: float = 0.0
    dd: float = 0.0
    k: float = 0.0  # u^2 k
    events: float = 0.0  # tails with wrong tokens

    def fade(self, kept: float) -> None:
        """Let everything count for less, and in the end for nothing."""
        if self.tokens * kept < _NOTHING:
            kept = 0.0
        self.tokens *= kept
        self.wrong *= kept
        self.events *= kept
        self.kk *= kept * kept
        self.kd *= kept * kept
        self.dd *= kept * kept
        self.k *= kept * kept

    def add(self, k: int, d: int, u: float) -> None:
        """Add a tail."""
        self.tokens += u * k
        self.wrong += u * d
        self.events += d > 0
        self.kk += u * u * k * k
        self.kd += u * u * k * d
        self.dd += u * u * d * d
        self.k += u * u * k

    @property
    def rate(self) -> float:
        """The share of wrong tokens."""
        return min(1.0, self.wrong / self.tokens)

    @property
    def effective(self) -> float:
        """How many independent tokens tell as much of the rate as these.

        Those there would be without clusters (Kish), by the design effect: the ratio's variance
        between requests over a binomial one. From few errors that cannot be told, and is taken
        from the tails' lengths. Korn and Graubard's factor allows for a variance from few requests.
        """
        alike = self.tokens * self.tokens / self.k
        clusters = self.tokens * self.tokens / self.kk
        assumed = 1 + (max(1.0, self.kk / self.k) - 1) * ASSUMED_LIKENESS
        trust = self.events / (self.events + _BELIEVED)
        effect = max(1.0, trust * self._effect(clusters) + (1 - trust) * assumed)
        few = (NORMAL / student_quantile(max(clusters - 1, _LEAST_FREEDOM))) ** 2
        return float(alike / effect * few**trust)

    def _effect(self, clusters: float) -> float:
        rate = self.rate
        if rate <= 0 or rate >= 1:
            return 1.0
        apart = self.dd - 2 * rate * self.kd + rate * rate * self.kk
        apart *= clusters / max(clusters - 1, _LEAST_FREEDOM)
        return max(0.0, apart) / (rate * (1 - rate) * self.k)


@dataclass(slots=True)
class Audit:
    """What was seen of an edge's requests, by sums that forget.

    Args:
        memory: tokens of text after which a request counts for 1/e.
    """

    memory: float = MEMORY
    _tokens: float = 0.0
    _judged: float = 0.0
    _wrong: float = 0.0
    _tail: float = 0.0
    _seen: float = 0.0  # tokens of tails that were judged
    _sums: _Sums = field(default_factory=_Sums)

    def take(self, request: Audited) -> None:
        """Take in a request that has ended."""
        kept = exp(-request.tokens / self.memory)
        self._tokens = self._tokens * kept + request.tokens
        self._judged = self._judged * kept + request.judged
        self._wrong = self._wrong * kept + request.wrong
        self._tail = self._tail * kept + request.tail
        self._seen *= kept
        self._sums.fade(kept)
        if request.tail_wrong is not None and request.tail:
            self._seen += request.tail
            self._sums.add(request.tail, request.tail_wrong, 1 / request.share)

    @property
    def tail_rate(self) -> float | None:
        """The share of a tail's tokens that are wrong; None where no tail was judged."""
        return self._sums.rate if self._sums.tokens else None

    def estimate(self) -> Estimate | None:
        """The disagreement over all tokens of the traffic remembered; None before there are any.

        Where no tail was judged, the value takes them to err as other kept tokens do; the interval
        says how little is known.
        """
        if not self._tokens:
            return None
        rate = self.tail_rate
        if rate is None:
            rate = self._wrong / self._judged if self._judged else 0.0
        rates = (rate, *self._interval())
        return Estimate(*((self._wrong + self._tail * each) / self._tokens for each in rates))

    def _interval(self) -> tuple[float, float]:
        """(low, high) for the share of wrong tokens in tails."""
        sums = self._sums
        if not sums.tokens:
            return 0.0, 1.0
        # Of tails that were judged nothing is left to be estimated.
        open_share = max(0.0, 1 - self._seen / self._tail)
        if open_share < 1e-9:
            return sums.rate, sums.rate
        return binomial_interval(sums.rate, sums.effective / open_share)
