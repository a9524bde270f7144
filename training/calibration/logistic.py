"""From what an exit says to the chance that the full model would choose the same token.

A logistic regression on four signals of the exit's distribution (those of JEI-DNN's gates, arXiv
2310.09163), fitted by Newton's method. What a chance is worth is measured on other documents: the
expected calibration error (Naeini et al., AAAI 2015; with bins of equal mass, Nixon et al., arXiv
1904.01685). Knows arrays only.
"""

from dataclasses import dataclass

import numpy as np

from shared.exits.calibration import Logistic
from training.calibration.thresholds import Bools
from training.calibration.trace_arrays import Numbers

BINS = 15
# Of the mean log-likelihood, per squared weight of a standardised signal: enough that a separable
# text has an answer, too little to be seen in an ordinary one.
RIDGE = 1e-6
_STEPS = 100
_FLAT = 1e-9


@dataclass(frozen=True, slots=True)
class Fit:
    """weights [F] float64 and bias: the chance is 1 / (1 + exp(-(weights . signals + bias)))."""

    weights: Numbers
    bias: float

    def chance(self, signals: Numbers) -> Numbers:
        """signals [..., F] in, chances [...] float64 out."""
        return _sigmoid(signals @ self.weights + self.bias)

    def stored(self) -> Logistic:
        """The same in the form that `agreement.json` holds and the edge computes."""
        return Logistic(tuple(self.weights.tolist()), self.bias)


@dataclass(frozen=True, slots=True)
class Bin:
    """Of `count` places: the mean chance, and the share that agreed."""

    chance: float
    agreed: float
    count: int


def fit_logistic(signals: Numbers, agrees: Bools, ridge: float = RIDGE) -> Fit:
    """Fit to signals [N, F] and whether each agreed [N].

    Minimises the mean negative log-likelihood plus ridge / 2 times the squared weights of the
    standardised signals, by Newton's method with halved steps. Raises ValueError for shapes that do
    not fit, for no places, and where it does not converge.
    """
    if signals.ndim != 2 or agrees.shape != signals.shape[:1] or not len(agrees):
        raise ValueError(f"signals {signals.shape} and agreement {agrees.shape} do not fit")
    mean, scale = signals.mean(axis=0), signals.std(axis=0)
    # A signal that never changes says nothing: its weight stays 0.
    scale = np.where(scale > 0, scale, 1.0)
    design = np.column_stack([(signals - mean) / scale, np.ones(len(agrees))])
    penalty = np.full(design.shape[1], ridge)
    penalty[-1] = ridge * ridge  # the bias, only so that one-sided text has an answer
    found = _newton(design, agrees.astype(np.float64), penalty)
    weights = found[:-1] / scale
    return Fit(weights, float(found[-1] - weights @ mean))


def expected_error(chances: Numbers, agrees: Bools, *, equal_mass: bool, bins: int = BINS) -> float:
    """Mean over places of |mean chance - share that agreed| of the bin it falls into.

    chances, agrees: [N]. Bins are of equal mass, or of equal width in [0, 1].
    """
    found = reliability(chances, agrees, equal_mass=equal_mass, bins=bins)
    return sum(abs(b.chance - b.agreed) * b.count for b in found) / len(chances)


def reliability(
    chances: Numbers, agrees: Bools, *, equal_mass: bool, bins: int = BINS
) -> list[Bin]:
    """The bins that are not empty, by rising chance; their counts add up to N."""
    if equal_mass:
        order = np.argsort(chances, kind="stable")
        parts = np.array_split(order, bins)
    else:
        places = np.minimum((chances * bins).astype(np.int64), bins - 1)
        parts = [np.flatnonzero(places == number) for number in range(bins)]
    return [
        Bin(float(chances[part].mean()), float(agrees[part].mean()), len(part))
        for part in parts
        if len(part)
    ]


def gradient(fit: Fit, signals: Numbers, agrees: Bools) -> Numbers:
    """[F + 1]: of the mean negative log-likelihood, by the weights and the bias; no penalty."""
    wrong = fit.chance(signals) - agrees
    return np.append(wrong @ signals, wrong.sum()) / len(agrees)


def _newton(design: Numbers, target: Numbers, penalty: Numbers) -> Numbers:
    weights = np.zeros(design.shape[1])
    value = _objective(design, target, penalty, weights)
    for _ in range(_STEPS):
        chance = _sigmoid(design @ weights)
        slope = design.T @ (chance - target) / len(target) + penalty * weights
        if np.abs(slope).max() < _FLAT:
            return weights
        curve = (design * (chance * (1 - chance))[:, None]).T @ design / len(target)
        step = np.linalg.solve(curve + np.diag(penalty), slope)
        size = 1.0
        while True:
            moved = weights - size * step
            lower = _objective(design, target, penalty, moved)
            if lower <= value or size < _FLAT:
                break
            size /= 2
        weights, value = moved, lower
    raise ValueError(f"no fit after {_STEPS} steps: the slope is {np.abs(slope).max():g}")


def _objective(design: Numbers, target: Numbers, penalty: Numbers, weights: Numbers) -> float:
    scores = design @ weights
    likelihood = np.logaddexp(0, scores) - target * scores
    return float(likelihood.mean() + penalty @ weights**2 / 2)


def _sigmoid(scores: Numbers) -> Numbers:
    # Of the two forms the one whose exponential cannot overflow.
    small = np.exp(-np.abs(scores))
    chances: Numbers = np.where(scores >= 0, 1 / (1 + small), small / (1 + small))
    return chances
