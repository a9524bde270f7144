"""How sure an exit must be before its token is kept: one threshold per exit, chosen on data.

A small model's confidence says little about whether the end would agree, and says something else
at every exit; so the thresholds are chosen together, to keep the most tokens while the kept ones
agree with the end as often as asked. The rule is `confidence > threshold`. This module knows
arrays only, neither models nor files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Steps = npt.NDArray[np.int64]

# Thresholds are multiples of 1 / _STEPS; the highest, 1, keeps nothing.
_STEPS = 10_000
_CANDIDATES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What thresholds do to N tokens: the share kept and the share of those that agree.

    `shares` and `agreements` say the same for each exit alone: tokens kept there over all N, and
    agreement among them. An agreement is None where nothing was kept.
    """

    tokens: int
    share: float
    agreement: float | None
    shares: tuple[float, ...]
    agreements: tuple[float | None, ...]


def apply_thresholds(confidence: Floats, agrees: Bools, thresholds: Sequence[float]) -> Kept:
    """Let each token leave at its first sure exit; confidence and agrees are [E, N]."""
    total = confidence.shape[1]
    remaining = np.ones(total, dtype=bool)
    counts, agreeing = [], []
    for row, good, threshold in zip(confidence, agrees, thresholds, strict=True):
        # As the edge compares them: in float64, whatever the confidences were computed in.
        kept = remaining & (row.astype(np.float64) > threshold)
        counts.append(int(kept.sum()))
        agreeing.append(int(good[kept].sum()))
        remaining &= ~kept
    return Kept(
        tokens=total,
        share=sum(counts) / max(1, total),
        agreement=_ratio(sum(agreeing), sum(counts)),
        shares=tuple(count / max(1, total) for count in counts),
        agreements=tuple(_ratio(a, n) for a, n in zip(agreeing, counts, strict=True)),
    )


def choose_thresholds(confidence: Floats, agrees: Bools, target: float) -> tuple[float, ...]:
    """Return thresholds that keep the most tokens with agreement of all kept ones >= target.

    confidence, agrees: [E, N], exits in the order in which they are asked. The last exit's
    threshold is the best there is (to four decimals); those before it are tried on a grid of their
    quantiles. Where no threshold reaches the target, nothing is kept (threshold 1). Raises
    ValueError for shapes that do not fit or a target outside (0, 1].
    """
    if confidence.shape != agrees.shape or confidence.ndim != 2 or not confidence.size:
        raise ValueError(f"confidence {confidence.shape} and agreement {agrees.shape} do not fit")
    if not 0 < target <= 1:
        raise ValueError(f"a target of {target} is no share")
    best, most = (_STEPS,) * len(confidence), 0
    passed = _highest_passed(confidence)
    for earlier in product(*(_candidates(row) for row in passed[:-1])):
        before, good, remaining = _leave(passed, agrees, earlier)
        kept, threshold = _lowest(
            passed[-1][remaining], agrees[-1][remaining], before=before, good=good, target=target
        )
        if kept > most:
            best, most = (*earlier, threshold), kept
    return tuple(step / _STEPS for step in best)


def _highest_passed(confidence: Floats) -> Steps:
    """The highest threshold, in steps, that each confidence exceeds (-1: not even 0)."""
    return np.ceil(confidence.astype(np.float64) * _STEPS).astype(np.int64) - 1


def _candidates(passed: Steps) -> list[int]:
    quantiles = np.quantile(passed, np.linspace(0, 1, _CANDIDATES + 1)).astype(np.int64)
    return sorted({*np.maximum(quantiles, 0).tolist(), _STEPS})


def _leave(passed: Steps, agrees: Bools, thresholds: Sequence[int]) -> tuple[int, int, Bools]:
    """Tokens kept before the last exit, how many of them agree, and which tokens remain."""
    remaining = np.ones(passed.shape[1], dtype=bool)
    good = 0
    for row, agreeing, threshold in zip(passed, agrees, thresholds, strict=False):
        kept = remaining & (row >= threshold)
        good += int(agreeing[kept].sum())
        remaining &= ~kept
    return int((~remaining).sum()), good, remaining


def _lowest(
    passed: Steps, agrees: Bools, *, before: int, good: int, target: float
) -> tuple[int, int]:
    """How many tokens the last exit's lowest threshold that meets the target keeps in all.

    before and good count the tokens kept at earlier exits, and those of them that agree. Returns
    (kept, threshold in steps); kept is -1 where no threshold meets the target.
    """
    # A confidence of 0 exceeds no threshold, and so is never kept.
    possible = passed >= 0
    steps, agrees = passed[possible], agrees[possible]
    # Index n: tokens that threshold n keeps here, and those of them that agree.
    here = np.bincount(steps, minlength=_STEPS + 1)[::-1].cumsum()[::-1]
    agreeing = np.bincount(steps, weights=agrees, minlength=_STEPS + 1)[::-1].cumsum()[::-1]
    meets = np.flatnonzero(good + agreeing >= target * (before + here))
    if not len(meets):
        return -1, _STEPS
    return before + int(here[meets[0]]), int(meets[0])


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
