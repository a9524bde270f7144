"""Thresholds that hold a target with a known chance, whatever the text is like.

Learn-then-Test (Angelopoulos et al., arXiv 2110.01052), as CALM uses it for early exits (Schuster
et al., arXiv 2207.07061): candidates are tested one after the other, from the safest on, and the
last before the first failure is taken (fixed-sequence testing, so that no level is spent on their
number). Each test asks whether the mean disagreement over tokens could be above the target; its
independent units are documents. The order of candidates must come from other documents than those
tested on. Knows arrays only.

The mean over tokens is a ratio of two means over documents, and stays one: with w wrong tokens of n
in a document and at most `longest` in any, (w - target * n) / longest + target lies in [0, 1] and
has a mean above `target` exactly when the ratio is above `target`.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np

from training.trace_arrays import Counts, Numbers

# The chance that what is certified is not so.
DELTA = 0.05
_BETS = 40

Test = Callable[[Numbers, float], float]


def losses(wrong: Counts, tokens: Counts, target: float, longest: int) -> Numbers:
    """[D] in [0, 1]: what each document adds; their mean is above `target` when the share of
    wrong tokens is. Raises ValueError where a document is longer than `longest`.
    """
    if len(tokens) and int(tokens.max()) > longest:
        raise ValueError(f"a document of {int(tokens.max())} tokens where {longest} are the most")
    return (wrong - target * tokens) / longest + target


def betting(loss: Numbers, target: float) -> float:
    """p-value of "the mean of these losses in [0, 1] is at least `target`": one over what a bettor
    against it makes of 1 (Waudby-Smith and Ramdas, arXiv 2010.09686).

    The stake is spread over bets of every size and left there (their diversified Kelly betting), so
    that neither the documents' order nor chance has a part in it.
    """
    gains = target - loss
    # The largest bet that cannot lose more than everything; log-spaced, since the best one is about
    # the gap over the variance, and that may be anything.
    bets = np.geomspace(0.02, 1.0, _BETS) / (1 - target)
    with np.errstate(divide="ignore"):
        logs = np.log1p(np.maximum(bets[:, None] * gains, -1)).sum(axis=1)
    most = logs.max()
    wealth = most + math.log(np.exp(logs - most).mean()) if np.isfinite(most) else -math.inf
    return math.exp(-max(0.0, wealth))


def predictable_betting(loss: Numbers, target: float, delta: float = DELTA) -> float:
    """The same with one bet, sized for `delta` by what earlier documents showed (the paper's
    predictable plug-in, as Bates et al. use it, arXiv 2101.02703): depends on their order.
    """
    count = np.arange(1, len(loss) + 1)
    means = (0.5 + np.cumsum(loss)) / (count + 1)
    variances = (0.25 + np.cumsum((loss - means) ** 2)) / (count + 1)
    before = np.append(0.25, variances[:-1])
    bets = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (len(loss) * before)))
    wealth = np.log1p(bets * (target - loss)).cumsum()
    return math.exp(-max(0.0, float(wealth.max(initial=0.0))))


def hoeffding_bentkus(loss: Numbers, target: float) -> float:
    """The p-value of Learn-then-Test's own example: of Hoeffding's and Bentkus' bounds the smaller
    (arXiv 2110.01052, section 3). It sees the mean alone, not how little losses vary.
    """
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
        if test(loss, target) > delta:
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
