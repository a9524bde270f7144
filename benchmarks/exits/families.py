"""Policies as families of one knob: for every level of disagreement, what each keeps of a text.

The knob is set on one text (the calibrating half) and applied to another. The same decisions as the
pure functions of `shared.exits.policies`, over arrays. Knows neither files nor models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from training.calibration.agreement import chances_of, fit_exits
from training.calibration.threshold_paths import kept_at, threshold_path, wrong_at
from training.calibration.trace_arrays import Counts, Numbers, Texts

# Shares of all tokens that a knob may let go wrong on the calibrating half; the finest are near 0.
LEVELS = np.geomspace(0.001, 0.4, 40)
NEWEST, UNSURE, STAY = 0.7, 2, 2

# Settings for each level, made on one text, and the exit that keeps each place of another.
Apply = Callable[[Texts, tuple[float, ...]], Counts]


@dataclass(frozen=True, slots=True)
class Family:
    """One policy with its knob turned: `settings` by level, and who keeps what at a setting."""

    settings: list[tuple[float, ...]]
    kept: Apply


@dataclass(frozen=True, slots=True)
class Point:
    """Of all tokens: the share that is wrong, and the share sent to the cloud."""

    disagreement: float
    offloaded: float

    @property
    def agreement_of_kept(self) -> float:
        """Of the kept tokens the share that agrees; 1 where none is kept."""
        kept = 1 - self.offloaded
        return 1 - self.disagreement / kept if kept else 1.0


def families(calibrating: Texts) -> Mapping[str, Family]:
    """Every policy, its knob set on `calibrating`."""
    fits = fit_exits(calibrating)

    def chance(texts: Texts) -> Numbers:
        return chances_of(fits, texts)

    found = {
        "single": _single(calibrating, _top),
        "per_exit": _per_exit(calibrating, _top),
        "chance": _per_exit(calibrating, chance),
        "entropy, single": _single(calibrating, _certainty),
        "entropy, per exit": _per_exit(calibrating, _certainty),
        "chance, single": _single(calibrating, chance),
    }

    def averaged(texts: Texts, setting: tuple[float, ...]) -> Counts:
        return moving_average(chance(texts), texts, setting)

    # The averages' thresholds are those of the chance itself: their knob is turned together.
    found["moving_average"] = Family(found["chance"].settings, averaged)
    return found


def point(texts: Texts, kept: Counts) -> Point:
    """What it costs to keep so: [N] exits that keep, E for the cloud."""
    wrong = wrong_at(texts.agrees, kept)
    return Point(float(wrong.mean()), float((kept == len(texts.exits)).mean()))


def curve(family: Family, texts: Texts) -> list[Point]:
    """A point for each of the LEVELS."""
    known: dict[tuple[float, ...], Point] = {}
    for setting in family.settings:
        if setting not in known:
            known[setting] = point(texts, family.kept(texts, setting))
    return [known[setting] for setting in family.settings]


def patience(texts: Texts, exits: int) -> Counts:
    """[N]: keep where so many exits in a row chose the same token; no knob."""
    kept = np.full(len(texts.whole), len(texts.exits))
    for last in reversed(range(exits - 1, len(texts.exits))):
        rows = texts.choices[last - exits + 1 : last + 1]
        kept[(rows == rows[0]).all(axis=0)] = last
    return kept


def moving_average(
    confidence: Numbers, texts: Texts, thresholds: tuple[float, ...], stay: int = STAY
) -> Counts:
    """[N]: what `shared.exits.policies.moving_average` keeps, all documents a place at a time.

    confidence: [E, N].
    """
    exits, documents = len(confidence), len(texts.lengths)
    starts = np.cumsum(texts.lengths) - texts.lengths
    kept = np.full(confidence.shape[1], exits)
    averages = np.full((exits, documents), np.nan)
    unsure, staying = np.zeros(documents, dtype=np.int64), np.zeros(documents, dtype=np.int64)
    for place in range(int(texts.lengths.max())):
        here = np.flatnonzero(texts.lengths > place)
        at = starts[here] + place
        free = staying[here] == 0
        open_ = np.ones(len(here), dtype=bool)  # no exit has kept it yet
        for row in range(exits):
            new, before = confidence[row, at], averages[row, here]
            before = np.where(np.isnan(before), new, before)
            average = before + NEWEST * (new - before)
            # Only the exits that are asked go on with their average.
            averages[row, here] = np.where(open_, average, averages[row, here])
            keeps = open_ & free & (average > thresholds[row])
            kept[at[keeps]] = row
            open_ &= ~keeps
        count = np.where(free & open_, unsure[here] + 1, 0)
        begins = count == UNSURE
        staying[here] = np.where(free, np.where(begins, stay, 0), staying[here] - 1)
        unsure[here] = np.where(begins, 0, count)
    return kept


def _top(texts: Texts) -> Numbers:
    top: Numbers = texts.signals[..., 0]
    return top


def _certainty(texts: Texts) -> Numbers:
    """Entropy as a number that rises with sureness, in (0, 1]."""
    certainty: Numbers = np.exp(-texts.signals[..., 1])
    return certainty


def _per_exit(calibrating: Texts, scores: Callable[[Texts], Numbers]) -> Family:
    settings = threshold_path(scores(calibrating), calibrating.agrees, LEVELS)
    return Family(settings, lambda texts, setting: kept_at(scores(texts), setting))


def _single(calibrating: Texts, scores: Callable[[Texts], Numbers]) -> Family:
    found, agrees = scores(calibrating), calibrating.agrees
    best = [(1.0,) * len(found)] * len(LEVELS)
    most = np.full(len(LEVELS), -1.0)
    for threshold in np.quantile(found, np.linspace(0, 1, 400)):
        setting = (float(threshold),) * len(found)
        kept = kept_at(found, setting)
        share, wrong = float((kept < len(found)).mean()), float(wrong_at(agrees, kept).mean())
        for level in np.flatnonzero((wrong <= LEVELS) & (share > most)):
            best[level], most[level] = setting, share
    return Family(best, lambda texts, setting: kept_at(scores(texts), setting))
