"""Thresholds that hold a target with a known chance, whatever the text is like.

Learn-then-Test (Angelopoulos et al., arXiv 2110.01052), as CALM uses it for early exits (Schuster
et al., arXiv 2207.07061): candidates are tested one after the other, from the safest on, and the
last before the first failure is taken (fixed-sequence testing, so that no level is spent on their
number). Each test asks whether the mean disagreement over tokens could be above the target; its
independent units are documents. The order of candidates must come from other documents than those
tested on. Knows arrays only.

What is bounded is the mean over documents of the share of their tokens that are wrong: every text
counts the same, however long. No bound without assumptions comes nearer to a target than
ln(1 / delta) / D for D documents: a document that is wrong from end to end, and comes once in so
many, would not have been seen.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

from training.calibration.trace_arrays import Numbers

# The chance that what is certified is not so: a target is held in 19 of 20 calibrations. With less
# than some hundred documents the smallest targets leave nothing to certify.
DELTA = 0.05
_BETS = 40

# Of losses [D] in [0, 1], a target and delta: the p-value of "their mean is at least the target".
Test = Callable[[Numbers, float, float], float]


def betting(loss: Numbers, target: float, delta: float) -> float:
    """One over what a bettor against "the mean is at least `target`" at best makes of 1, staking on
    each document by what the ones before it showed (Waudby-Smith and Ramdas, arXiv 2010.09686,
    their predictable plug-in, sized for `delta`; as Bates et al. use it, arXiv 2101.02703).

    The documents' order must have nothing to do with what they are: sources one after the other
    are no such order.
    """
    count = np.arange(1, len(loss) + 1)
    means = (0.5 + np.cumsum(loss)) / (count + 1)
    variances = (0.25 + np.cumsum((loss - means) ** 2)) / (count + 1)
    before = np.append(0.25, variances[:-1])
    bets = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (len(loss) * before)))
    wealth = np.log1p(bets * (target - loss)).cumsum()
    return math.exp(-max(0.0, float(wealth.max(initial=0.0))))


def spread_betting(loss: Numbers, target: float, delta: float) -> float:
    """The same with the stake spread over bets of every size and left there until the end (their
    diversified Kelly betting): the order is nothing to it, and it pays for every bet but the best.
    """
    del delta
    # The largest bet is one that cannot lose more than everything.
    bets = np.geomspace(0.02, 1.0, _BETS) / (1 - target)
    with np.errstate(divide="ignore"):
        logs = np.log1p(np.maximum(bets[:, None] * (target - loss), -1)).sum(axis=1)
    most = logs.max()
    wealth = most + math.log(np.exp(logs - most).mean()) if np.isfinite(most) else -math.inf
    return math.exp(-max(0.0, wealth))


def hoeffding_bentkus(loss: Numbers, target: float, delta: float) -> float:
    """The p-value of Learn-then-Test's own example: of Hoeffding's and Bentkus' bounds the smaller
    (arXiv 2110.01052, section 3). It sees the mean alone, not how little losses vary.
    """
    del delta
    mean, count = float(loss.mean()), len(loss)
    if mean >= target:
        return 1.0
    divergence = (1 - mean) * math.log((1 - mean) / (1 - target))
    divergence += mean * math.log(mean / target) if mean > 0 else 0.0
    successes = math.ceil(count * mean)
    return min(1.0, math.exp(-count * divergence), math.e * _binomial(successes, count, target))


def certify(candidates: Iterable[Numbers], target: float, delta: float, test: Test) -> int:
    """How many candidates pass before the first that does not; 0: not even the first one does.

    candidates: the losses [D] of each on the same documents, from the safest on. With chance
    1 - delta or more every one of those that pass has a mean of at most `target`.
    """
    passed = 0
    for loss in candidates:
        if test(loss, target, delta) > delta:
            break
        passed += 1
    return passed


def _binomial(most: int, count: int, chance: float) -> float:
    """P(a binomial of `count` trials is at most `most`)."""
    logs = [
        math.lgamma(count + 1)
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(chance)
        + (count - k) * math.log1p(-chance)
        for k in range(most + 1)
    ]
    return math.fsum(map(math.exp, logs))
