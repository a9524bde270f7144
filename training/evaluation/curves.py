"""What a threshold does, from the one that keeps everything to the one that keeps nothing.

For every exit asked alone and for all of them at one threshold: the share of tokens kept, and the
share of all tokens that were kept and are not what the end chooses. It knows arrays only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.calibration.thresholds import Bools, Floats, Kept, apply_thresholds

STEPS = 50
THRESHOLDS = tuple(step / STEPS for step in range(STEPS + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One threshold (or one for each exit): shares of all N tokens, and agreement of the kept.

    disagreement: kept and not the end's choice, over all tokens; those not kept agree, as the whole
    model decides them. agreement: None where nothing was kept.
    """

    thresholds: tuple[float, ...]
    kept: float
    disagreement: float
    agreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The points of some exits, by rising threshold; `exits` are those asked, by layer."""

    exits: tuple[int, ...]
    points: tuple[Point, ...]


def curves(
    confidence: Floats,
    agrees: Bools,
    exits: Sequence[int],
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Curve]:
    """Each exit alone, then all at one threshold where there are several.

    confidence, agrees: [E, N], rows in the order of `exits`, which is that in which they are asked.
    """
    asked = [[row] for row in range(len(exits))]
    if len(exits) > 1:
        asked.append(list(range(len(exits))))
    return [
        Curve(
            exits=tuple(exits[row] for row in rows),
            points=tuple(
                point(confidence[rows], agrees[rows], [threshold] * len(rows))
                for threshold in thresholds
            ),
        )
        for rows in asked
    ]


def point(confidence: Floats, agrees: Bools, thresholds: Sequence[float]) -> Point:
    """What these thresholds, one for each exit, do to tokens [E, N]."""
    kept = apply_thresholds(confidence, agrees, thresholds)
    return Point(
        thresholds=tuple(thresholds),
        kept=kept.share,
        disagreement=_wrong(kept),
        agreement=kept.agreement,
    )


def _wrong(kept: Kept) -> float:
    return 0.0 if kept.agreement is None else kept.share * (1 - kept.agreement)
