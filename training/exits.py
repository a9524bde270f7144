"""The file `exits.json` beside a checkpoint: which exits it has and when a token may stay there.

It writes the form that `shared.model` reads; it does not know how thresholds are chosen nor what an
exit computes.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shared.model.checkpoint import read_checkpoint
from shared.model.exits import FORMAT, INDEX, Calibration
from shared.model.fingerprint import fingerprint


@dataclass(frozen=True, slots=True)
class ExitPoint:
    """An exit in front of `layer`: a token stays when its confidence exceeds `threshold`.

    `agreement` is the share of kept tokens that the end of the model would have chosen too,
    measured on text the threshold was not chosen on; None where nothing was measured or kept.
    `calibration` says how sure its drafts are, by how tokens were chosen.
    """

    layer: int
    threshold: float
    agreement: float | None
    calibration: Calibration = field(default_factory=dict)


def write_exits(folder: Path, exits: Sequence[ExitPoint]) -> None:
    """Write `exits.json` into a checkpoint folder, naming the weights that it belongs to.

    Raises BadModel when the folder is no checkpoint.
    """
    content = {
        "format": FORMAT,
        "model_fingerprint": fingerprint(folder, read_checkpoint(folder)),
        "exits": [asdict(point) for point in exits],
    }
    (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n")
