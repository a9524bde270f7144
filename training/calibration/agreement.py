"""`agreement.json` from traces: chances per exit, and thresholds of them that hold a target.

The documents are split once: one part fits the chances and puts thresholds in an order, the other
tests them (`training.calibration.guarantee`) and says what the chances are worth. Knows traces,
arrays and the file; not how traces come about.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.exits.calibration import Agreement, ExitFit, Target, Text, file_of
from shared.exits.traces import Trace
from shared.model.exits import exits_sha256
from training.calibration.guarantee import DELTA, Test, betting, certify
from training.calibration.logistic import Fit, expected_error, fit_logistic
from training.calibration.threshold_paths import Path as Thresholds
from training.calibration.threshold_paths import kept_at, threshold_path, wrong_at
from training.calibration.trace_arrays import Numbers, Texts, as_arrays

TARGETS = (0.005, 0.01, 0.02, 0.05, 0.1)
# Fitting five numbers and an order needs fewer documents than certifying it.
FITTING = 0.25
# Levels of disagreement at which thresholds are tested, as shares of the target.
_LEVELS = np.linspace(0.02, 1.2, 60)
_DECIMALS = 6

Cut = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Thresholds, by exit, and what they do to some documents.

    offloaded: the share of all tokens sent to the cloud. disagreement: the mean over documents of
    the share of their tokens that is wrong; of_all_tokens: the share of all tokens together.
    """

    thresholds: tuple[float, ...]
    offloaded: float
    disagreement: float
    of_all_tokens: float


def make_agreement(
    folder: Path,
    traces: Iterable[Trace],
    *,
    cut: Cut | None = None,
    targets: Sequence[float] = TARGETS,
    delta: float = DELTA,
    seed: int = 0,
) -> Agreement:
    """Write the agreement of traces into the checkpoint `folder`, and return it.

    traces: of the checkpoint's exits, or with the drafter of `cut` in place. Each target alone is
    kept with chance 1 - delta over the documents drawn. Raises ValueError for traces that are not
    of one kind, of other exits than lie there, or too few to split.
    """
    found = list(traces)
    there = exits_sha256(folder, cut)
    if any(trace.exits_sha256 != there for trace in found):
        raise ValueError(f"traces of other exits than those of {folder}: write them anew")
    texts = as_arrays(found)
    if len(texts.lengths) < 4:
        raise ValueError(f"{len(texts.lengths)} documents are too few to split")
    fitting, testing = texts.split(FITTING, seed)
    fits = fit_exits(fitting)
    text: Text = "sampled" if found[0].kind == "sampled" else "greedy"
    agreement = Agreement(
        found[0].model_fingerprint,
        {
            layer: _described(fit, fitting, testing, row)
            for row, (layer, fit) in enumerate(zip(texts.exits, fits, strict=True))
        },
        tuple(_target(fits, fitting, testing, target, delta) for target in sorted(targets)),
        there,
        text,
    )
    agreement.write(folder / file_of(cut, text))
    return agreement


def fit_exits(texts: Texts) -> list[Fit]:
    """A fit for each exit."""
    pairs = zip(texts.signals, texts.agrees, strict=True)
    return [fit_logistic(signals, agrees) for signals, agrees in pairs]


def chances_of(fits: Sequence[Fit], texts: Texts) -> Numbers:
    """[E, N]: the chance of each exit at each place."""
    pairs = zip(fits, texts.signals, strict=True)
    return np.stack([fit.chance(signals) for fit, signals in pairs])


def candidates_of(scores: Numbers, fitting: Texts, target: float) -> Thresholds:
    """Thresholds to test for a target, from the safest on; scores [E, N] in (0, 1) of the fitting
    documents, rising with sureness.
    """
    path = threshold_path(scores, fitting.agrees, _LEVELS * target)
    # Rounded before they are tested: what is certified is what is written.
    return [tuple(min(1.0, round(each, _DECIMALS)) for each in thresholds) for thresholds in path]


def certified_thresholds(
    candidates: Thresholds,
    tested: Numbers,
    testing: Texts,
    target: float,
    *,
    delta: float = DELTA,
    test: Test = betting,
) -> Outcome:
    """The boldest of the candidates that the testing documents, of scores [E, N], certify; where
    not even the safest passes, thresholds of 1, which keep nothing.
    """
    agrees = testing.agrees
    # Documents come in the order of their sources; what bets on them must not know that.
    order = np.random.default_rng(0).permutation(len(testing.lengths))
    wrong = (testing.shares(wrong_at(agrees, kept_at(tested, each)))[order] for each in candidates)
    passed = certify(wrong, target, delta, test)
    chosen = candidates[passed - 1] if passed else (1.0,) * len(testing.exits)
    return outcome(chosen, tested, testing)


def outcome(thresholds: tuple[float, ...], scores: Numbers, texts: Texts) -> Outcome:
    """What thresholds do to texts of these scores [E, N]."""
    kept = kept_at(scores, thresholds)
    wrong = wrong_at(texts.agrees, kept)
    return Outcome(
        thresholds,
        offloaded=float((kept == len(scores)).mean()),
        disagreement=float(texts.shares(wrong).mean()),
        of_all_tokens=float(wrong.mean()),
    )


def _target(
    fits: Sequence[Fit], fitting: Texts, testing: Texts, target: float, delta: float
) -> Target:
    candidates = candidates_of(chances_of(fits, fitting), fitting, target)
    tested = chances_of(fits, testing)
    found = certified_thresholds(candidates, tested, testing, target, delta=delta)
    return Target(
        target, dict(zip(testing.exits, found.thresholds, strict=True)), round(found.offloaded, 6)
    )


def _described(fit: Fit, fitting: Texts, testing: Texts, row: int) -> ExitFit:
    signals, agrees = testing.signals[row], testing.agrees[row]
    before = expected_error(signals[:, 0], agrees, equal_mass=True)
    after = expected_error(fit.chance(signals), agrees, equal_mass=True)
    return ExitFit(fit.stored(), len(fitting.whole), round(before, 6), round(after, 6))
