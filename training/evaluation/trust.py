"""What a stored calibration is worth on a text that was read: reliability, and its targets kept.

Of text that did not make the calibration, this is a test of it. It knows readings, not files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.exits.calibration import Agreement, Target
from training.calibration.logistic import Bin, Fit, expected_error, reliability
from training.calibration.threshold_paths import kept_at, wrong_at
from training.calibration.thresholds import Bools
from training.calibration.trace_arrays import Numbers, shares_of
from training.evaluation.curves import Point, point
from training.evaluation.reading import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliable:
    """One exit's chances against what happened: as the top probability, and as calibrated.

    Bins are of equal mass, by rising chance; an error is the expected calibration error over them.
    """

    layer: int
    before: list[Bin]
    after: list[Bin]
    error_before: float
    error_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised:
    """A target of the calibration, and what its thresholds of the chance do here.

    by_text: the mean over texts of each one's share of wrong tokens, which is what a target bounds;
    `here.disagreement` is that of all tokens together.
    """

    max_disagreement: float
    offloaded: float
    by_text: float
    here: Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Of the exits in the order of their layers, and of the targets, rising."""

    exits: list[Reliable]
    targets: list[Promised]


def trust(
    reading: Reading, exits: Sequence[int], agreement: Agreement, lengths: Sequence[int]
) -> Trust:
    """Hold a calibration of these exits against a reading of texts of so many tokens each, none of
    them empty.

    Raises ValueError where it is of other exits.
    """
    if list(exits) != agreement.layers:
        raise ValueError(f"the calibration is of exits {agreement.layers}, not of {list(exits)}")
    signals = reading.signals[:, :-1].double().numpy()
    agrees = reading.agrees.numpy()
    chances = np.stack(
        [
            _fit(agreement, layer).chance(np.moveaxis(signals[:, row], 0, -1))
            for row, layer in enumerate(exits)
        ]
    )
    return Trust(
        exits=[
            _reliable(layer, signals[0, row], chances[row], agrees[row])
            for row, layer in enumerate(exits)
        ],
        targets=[
            _promised(target, chances, agrees, exits, lengths) for target in agreement.targets
        ],
    )


def _promised(
    target: Target,
    chances: Numbers,
    agrees: Bools,
    exits: Sequence[int],
    lengths: Sequence[int],
) -> Promised:
    thresholds = [target.thresholds[layer] for layer in exits]
    wrong = wrong_at(agrees, kept_at(chances, thresholds))
    return Promised(
        max_disagreement=target.max_disagreement,
        offloaded=target.offloaded,
        by_text=float(shares_of(wrong, np.array(lengths, dtype=np.int64)).mean()),
        here=point(chances, agrees, thresholds),
    )


def _fit(agreement: Agreement, layer: int) -> Fit:
    logistic = agreement.exits[layer].logistic
    return Fit(np.array(logistic.weights), logistic.bias)


def _reliable(layer: int, top: Numbers, chances: Numbers, agrees: Bools) -> Reliable:
    return Reliable(
        layer=layer,
        before=reliability(top, agrees, equal_mass=True),
        after=reliability(chances, agrees, equal_mass=True),
        error_before=expected_error(top, agrees, equal_mass=True),
        error_after=expected_error(chances, agrees, equal_mass=True),
    )
