"""Holds disagreement at its target while traffic drifts away from the calibration text.

Adaptive conformal inference (Gibbs and Candes, arXiv 2106.00170): the level that is asked of the
calibration moves against the error just seen, level += step x (target - error), which bounds the
error over time whatever the traffic does. Three things differ. The level moves by ratios, so that a
step means the same for targets of 0.01 and of 0.1: a controller learns how many times its target
the level must be. (Each target has one of its own: easy traffic at one says nothing of another's.)
What nobody judged, the tails, counts by what is predicted of it: as wrong as judged tokens lately
were, times how much more often tails proved to be wrong, which is learnt from audits and kept for
long. (To weight an audited tail by 1 / probability is right on average without a prediction, but
one wrong token would then be fifty.) And one label moves little, and nothing in force changes for
less than a band's width.
"""

from dataclasses import dataclass, field
from math import exp, log

from shared.exits.audit import Audited

# Tokens in which a disagreement twice the target would halve the level, or nearly.
PACE = 500.0
# The most one wrong token moves the logarithm of the level.
LARGEST_LABEL = 0.2
# What one request can move it by.
LARGEST_STEP = 0.7
# The level is never more or less than so many times the target. Beyond what was calibrated it does
# not go on easier traffic either: where more is kept less is judged, and labels mislead the more.
LOWEST, HIGHEST = 1 / 32, 1.0
# What is in force stays until the level has moved away by this share.
BAND = 0.1
# A label counts for 1/e after so many further ones where it tells of the rate lately, and after so
# many tokens where it tells what tails are like.
RECENT, LONG = 500.0, 500_000.0
# Kept tokens, and wrong tokens in tails, that what is assumed without labels counts for.
ASSUMED_TOKENS, ASSUMED_WRONG = 50.0, 5.0
# Until audits know better tails are taken to be wrong so many times as often as judged tokens: at
# targets of 0.02 and 0.05 they were 0.6 to 0.8 times in long texts, 3 times in short answers.
ASSUMED_TIMES = 1.5


@dataclass(slots=True)
class _Tails:
    """How many of a tail's tokens are wrong, by what is known of it."""

    judged: float = 0.0
    wrong: float = 0.0
    expected: float = 0.0  # wrong tokens of audited tails, were they like judged ones
    found: float = 0.0

    def predict(self, request: Audited, level: float) -> float:
        """The wrong tokens of a request's tail; `level` stands in for labels."""
        return request.tail * self._rate(level) * self._times()

    def take(self, request: Audited, level: float) -> None:
        """Take in a request, after its prediction."""
        if request.tail_wrong is not None:
            kept = exp(-request.tokens / request.share / LONG)
            self.expected = self.expected * kept + request.tail * self._rate(level)
            self.found = self.found * kept + request.tail_wrong
            self._label(request.tail, request.tail_wrong / self._times())
        self._label(request.judged, request.wrong)

    def _label(self, tokens: int, wrong: float) -> None:
        kept = exp(-tokens / RECENT)
        self.judged = self.judged * kept + tokens
        self.wrong = self.wrong * kept + wrong

    def _rate(self, level: float) -> float:
        return (self.wrong + ASSUMED_TOKENS * level) / (self.judged + ASSUMED_TOKENS)

    def _times(self) -> float:
        return (self.found + ASSUMED_TIMES * ASSUMED_WRONG) / (self.expected + ASSUMED_WRONG)


@dataclass(slots=True)
class Controller:
    """Says which level to take where a target is asked for.

    Attributes:
        factor: times the target the level should be, by all labels so far.
        in_force: what `level` goes by.
    """

    pace: float = PACE
    factor: float = 1.0
    in_force: float = 1.0
    _tails: _Tails = field(default_factory=_Tails)

    def level(self, target: float) -> float:
        """The level, in (0, 1], whose thresholds hold `target` on this traffic."""
        return min(1.0, target * self.in_force)

    def take(self, request: Audited, target: float) -> None:
        """Take in a request that was served for `target` > 0."""
        level = self.level(target)
        # What is predicted corrects nothing where the tail itself was judged.
        wrong = request.wrong + self._tails.predict(request, level)
        self._tails.take(request, level)
        step = min(1 / self.pace, LARGEST_LABEL * target)
        moved = step * (request.tokens - wrong / target)
        moved = min(LARGEST_STEP, max(-LARGEST_STEP, moved))
        self.factor = min(HIGHEST, max(LOWEST, self.factor * exp(moved)))
        if abs(log(self.factor / self.in_force)) > BAND:
            self.in_force = self.factor
