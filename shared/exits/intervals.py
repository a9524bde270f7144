"""An interval for a share that behaves where there are few events, few clusters, or none.

Clopper and Pearson's binomial interval (Biometrika 26, 1934) at the effective number of
observations, as Korn and Graubard give it for clustered samples ("Confidence intervals for
proportions with small expected number of positive counts estimated from survey data", Survey
Methodology 24, 1998). Plain arithmetic.
"""

from math import exp, lgamma, log, log1p, sqrt

# Of 20 intervals 19 should hold the truth.
LEVEL = 0.95
NORMAL = 1.959964  # Student's quantile of that level without end of degrees
_TINY = 1e-300
_CLOSE = 1e-12
_TERMS = 10_000
_HALVINGS = 40


def binomial_interval(share: float, count: float, level: float = LEVEL) -> tuple[float, float]:
    """Return (low, high) for the chance of an event that was seen in a `share` of `count`
    independent observations; `count` need not be whole. (0, 1) where nothing was observed.
    """
    if count <= 0:
        return 0.0, 1.0
    events, rest = share * count, (1 - share) * count
    tail = (1 - level) / 2
    low = beta_quantile(tail, events, rest + 1) if events > 0 else 0.0
    high = beta_quantile(1 - tail, events + 1, rest) if rest > 0 else 1.0
    return low, high


def student_quantile(freedom: float, level: float = LEVEL) -> float:
    """Return t such that Student's variable of `freedom` > 0 degrees lies in [-t, t] with chance
    `level`.
    """
    part = beta_quantile(1 - level, freedom / 2, 0.5)
    return sqrt(freedom * (1 - part) / max(part, _TINY))


def beta_quantile(chance: float, a: float, b: float) -> float:
    """Return the x in [0, 1] below which a Beta(a, b) variable, a, b > 0, lies with `chance`."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if beta_share(middle, a, b) < chance:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_share(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) (DLMF 8.17.22, by Lentz's method).

    Raises:
        ArithmeticError: the continued fraction does not end.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    # The fraction ends soon only on this side of the mean.
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(1 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    c, d = 1.0, 1 / _apart(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _apart(1 + term * d)
            c = _apart(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _CLOSE:
            return front * value
    raise ArithmeticError(f"I_x(a, b) did not converge at x={x}, a={a}, b={b}")


def _apart(value: float) -> float:
    """`value`, kept from 0, by which the next step divides."""
    return value if abs(value) > _TINY else _TINY
