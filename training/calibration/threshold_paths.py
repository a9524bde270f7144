"""Thresholds per exit from the safest to the boldest: for every level of disagreement the ones that
keep the most tokens of some text.

Disagreement is counted over all tokens, as those sent to the cloud agree by definition. The rule is
`score > threshold`, the exits asked in the order of their layers; a score is any number that rises
with sureness. Nothing here promises anything of other text: see `training.calibration.guarantee`.
Knows arrays only.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np

from training.calibration.thresholds import Bools
from training.calibration.trace_arrays import Counts, Numbers

_CANDIDATES = 120

Path = list[tuple[float, ...]]


def kept_at(scores: Numbers, thresholds: Sequence[float]) -> Counts:
    """[N] int64: the index of the exit that keeps each token, E where none does; scores [E, N]."""
    sure = scores > np.asarray(thresholds)[:, None]
    return np.where(sure.any(axis=0), sure.argmax(axis=0), len(scores))


def wrong_at(agrees: Bools, kept: Counts) -> Bools:
    """[N]: where the exit that keeps a token is not with the full model; agrees [E, N]."""
    count = len(agrees)
    return (kept < count) & ~agrees[np.minimum(kept, count - 1), np.arange(agrees.shape[1])]


def threshold_path(
    scores: Numbers, agrees: Bools, levels: Numbers, *, nothing: float = 1.0
) -> Path:
    """For each of the rising levels, thresholds that keep the most tokens with a share of wrong
    ones (of all N) of at most the level.

    scores, agrees: [E, N]. The last exit's threshold is the best there is; those before it are
    tried at quantiles. `nothing` is a threshold that no score exceeds. Raises ValueError for shapes
    that do not fit.
    """
    if scores.shape != agrees.shape or scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores {scores.shape} and agreement {agrees.shape} do not fit")
    exits, total = scores.shape
    allowed = np.floor(levels * total + 1e-9)
    most = np.zeros(len(levels), dtype=np.int64)
    best: Path = [(nothing,) * exits for _ in levels]
    last = np.argsort(-scores[-1], kind="stable")
    for earlier in product(*(_candidates(row, nothing) for row in scores[:-1])):
        kept = kept_at(scores[:-1], earlier) if exits > 1 else np.zeros(total, dtype=np.int64)
        staying = kept < exits - 1
        before = int(wrong_at(agrees[:-1], kept).sum()) if exits > 1 else 0
        order = last[~staying[last]]
        score = scores[-1][order]
        # Index n: what is wrong when the n surest are kept too; cuts lie between unlike scores.
        wrong = np.concatenate([[0], np.cumsum(~agrees[-1][order])]) + before
        cuts = np.flatnonzero(np.append(True, np.append(score[1:] != score[:-1], True)))
        if not len(order):
            cuts = np.array([0])
        fits = np.searchsorted(wrong[cuts], allowed, side="right") - 1
        for index in np.flatnonzero(fits >= 0):
            cut = int(cuts[fits[index]])
            if (count := int(staying.sum()) + cut) > most[index]:
                most[index] = count
                best[index] = (*earlier, _between(score, cut, nothing))
    return best


def _between(score: Numbers, cut: int, nothing: float) -> float:
    """A threshold that the `cut` highest of falling scores exceed, and the next does not."""
    if cut == 0:
        return nothing
    if cut == len(score):
        return float(np.nextafter(score[-1], -np.inf))
    return float(score[cut])


def _candidates(row: Numbers, nothing: float) -> list[float]:
    # More of them where sureness is high: that is where few tokens make the difference.
    shares = 1 - np.linspace(0, 1, _CANDIDATES + 1)[:-1] ** 1.5
    found = np.unique(np.quantile(row, shares, method="lower"))[::-1].tolist()
    return [nothing, *found, float(np.nextafter(row.min(), -np.inf))]
