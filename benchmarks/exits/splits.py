"""One split of the documents into halves: what is fitted on the one, judged on the other.

Targets with their guarantee (by each bound, and without one), calibration errors, and what every
policy sends to the cloud at equal agreement. Knows arrays; neither files nor pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.exits.families import Point, curve, families, patience, point
from training.calibration.agreement import (
    FITTING,
    candidates_of,
    certified_thresholds,
    chances_of,
    fit_exits,
    outcome,
)
from training.calibration.guarantee import Test, betting, hoeffding_bentkus, spread_betting
from training.calibration.logistic import expected_error, reliability
from training.calibration.threshold_paths import threshold_path
from training.calibration.thresholds import apply_thresholds, choose_thresholds
from training.calibration.trace_arrays import Texts

TARGETS = (0.01, 0.02, 0.05, 0.1)
AGREEMENT = 0.95


def judge(texts: Texts, seed: int, delta: float) -> dict[str, Any]:
    """Everything that is told of one seed."""
    calibrating, judged = texts.split(0.5, seed)
    points = {name: curve(family, judged) for name, family in families(calibrating).items()}
    return {
        "seed": seed,
        "documents": [len(calibrating.lengths), len(judged.lengths)],
        "tokens": [len(calibrating.whole), len(judged.whole)],
        "targets": _targets(calibrating, judged, seed, delta),
        "calibration": _calibration(calibrating, judged, seed),
        "policies": {
            "at_disagreement": {
                name: at_disagreement(found, 1 - AGREEMENT) for name, found in points.items()
            },
            "at_agreement_of_kept": {
                name: at_agreement_of_kept(found, AGREEMENT) for name, found in points.items()
            },
            "chosen": _chosen(calibrating, judged),
            "patience": {
                str(exits): asdict(point(judged, patience(judged, exits)))
                for exits in range(1, len(judged.exits) + 1)
            },
        },
        "curves": {
            name: [(each.disagreement, each.offloaded) for each in found]
            for name, found in points.items()
        },
    }


def at_disagreement(points: Sequence[Point], wanted: float) -> float | None:
    """The share offloaded where that share of all tokens is wrong, between the nearest points; what
    is offloaded at most where less is wrong whatever is kept.
    """
    return _between([each.disagreement for each in points], points, wanted)


def at_agreement_of_kept(points: Sequence[Point], wanted: float) -> float | None:
    """The same where that share of the kept tokens agrees."""
    return _between([1 - each.agreement_of_kept for each in points], points, 1 - wanted)


def _between(errors: Sequence[float], points: Sequence[Point], wanted: float) -> float | None:
    order = np.argsort(errors, kind="stable")
    sorted_errors = np.asarray(errors)[order]
    if not sorted_errors[0] <= wanted:
        return None
    offloaded = np.array([points[index].offloaded for index in order])
    return float(np.interp(wanted, sorted_errors, offloaded))


def _targets(calibrating: Texts, judged: Texts, seed: int, delta: float) -> dict[str, Any]:
    """By target and bound: realised disagreement and what is offloaded, on the judged half."""
    fitting, testing = calibrating.split(FITTING, seed)
    fits = fit_exits(fitting)
    fitted, tested, unseen = (chances_of(fits, each) for each in (fitting, testing, judged))
    bounds: Mapping[str, Test] = {
        "betting": betting,
        "spread betting": spread_betting,
        "Hoeffding-Bentkus": hoeffding_bentkus,
    }
    every_fit = fit_exits(calibrating)
    found: dict[str, Any] = {}
    for target in TARGETS:
        row = {}
        candidates = candidates_of(fitted, fitting, target)
        for name, test in bounds.items():
            certified = certified_thresholds(
                candidates, tested, testing, target, delta=delta, test=test
            )
            row[name] = outcome(certified.thresholds, unseen, judged)
        (bare,) = threshold_path(
            chances_of(every_fit, calibrating), calibrating.agrees, np.array([target])
        )
        row["no guarantee"] = outcome(bare, chances_of(every_fit, judged), judged)
        found[f"{target:g}"] = {name: asdict(each) for name, each in row.items()}
    return found


def _calibration(calibrating: Texts, judged: Texts, seed: int) -> dict[str, Any]:
    """By exit: the error of the raw highest probability and of the chance, on the judged half."""
    found = {}
    for row, (layer, fit) in enumerate(zip(judged.exits, fit_exits(calibrating), strict=True)):
        signals, agrees = judged.signals[row], judged.agrees[row]
        kinds = {"before": signals[:, 0], "after": fit.chance(signals)}
        told: dict[str, Any] = {"agreement": float(agrees.mean())}
        for kind, chances in kinds.items():
            told[f"ece_{kind}"] = expected_error(chances, agrees, equal_mass=True)
            told[f"ece_{kind}_equal_width"] = expected_error(chances, agrees, equal_mass=False)
            bins = reliability(chances, agrees, equal_mass=True)
            told[f"bins_{kind}"] = [(b.chance, b.agreed, b.count) for b in bins]
        found[str(layer)] = told
    return found


def _chosen(calibrating: Texts, judged: Texts) -> dict[str, Any]:
    """The thresholds that `training.calibration.thresholds` chooses for 95 % agreement of the kept
    tokens: one for all exits, and one for each; realised on the judged half.
    """
    top, agrees = calibrating.signals[..., 0], calibrating.agrees
    each = choose_thresholds(top, agrees, AGREEMENT)
    kept_shares = [
        (kept.share, threshold)
        for threshold in np.linspace(0, 1, 501).tolist()
        if (kept := apply_thresholds(top, agrees, (threshold,) * len(top))).agreement is None
        or kept.agreement >= AGREEMENT
    ]
    one = max(kept_shares)[1]
    told = {}
    for name, thresholds in (("single", (one,) * len(top)), ("per_exit", each)):
        kept = apply_thresholds(judged.signals[..., 0], judged.agrees, thresholds)
        told[name] = {
            "thresholds": list(thresholds),
            "offloaded": 1 - kept.share,
            "agreement_of_kept": kept.agreement,
        }
    return told
