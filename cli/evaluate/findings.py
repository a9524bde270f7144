"""All that one evaluation found, and the same as the content of a JSON file.

It knows neither how it was measured nor how it is shown.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cli.evaluate.modes import Row

if TYPE_CHECKING:
    from training.evaluation.assessment import Assessment, Swept

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """One file on one checkpoint. thresholds: each exit's own, by layer; depth: the model's;
    exits_sha256: of the exits' weights, None where they have none of their own.

    drafter: whether the exits are those of an edge with its drafter, and no plain ones; rows are
    none where no service was asked.
    """

    model: str
    fingerprint: str
    exits_sha256: str | None
    file: str
    depth: int
    thresholds: Mapping[int, float]
    assessment: "Assessment"
    drafter: bool
    rows: list[Row]

    @property
    def exits(self) -> tuple[int, ...]:
        """Their layers, rising."""
        return tuple(self.thresholds)

    def content(self) -> dict[str, object]:
        """Everything, as JSON takes it."""
        assessment = self.assessment
        return {
            "format": FORMAT,
            "model": self.model,
            "model_fingerprint": self.fingerprint,
            "file": self.file,
            "documents": assessment.documents,
            "prompts": len(assessment.prompts),
            "passed_over": assessment.passed_over,
            "depth": self.depth,
            "exits": list(self.exits),
            "thresholds": {str(layer): value for layer, value in self.thresholds.items()},
            "held_out": None if assessment.held_out is None else asdict(assessment.held_out),
            "thresholds_on_held_out": _swept(assessment.on_held_out),
            "thresholds_on_answers": _swept(assessment.on_answers),
            "drafter": self.drafter,
            "calibration": None if assessment.trust is None else asdict(assessment.trust),
            "settings": [row.content() for row in self.rows],
        }


def _swept(swept: "Swept | None") -> object:
    return None if swept is None else asdict(swept)
