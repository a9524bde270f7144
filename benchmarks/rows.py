"""The benchmark's figures, one row per deployment and network, and the file they are kept in.

benchmarks/README.md says what each key means. It neither measures nor draws.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from cli.errors import CommandError

CLOUD_ONLY = "cloud-only"


class CellKey(NamedTuple):
    """Where rows can be held against each other: on one network, their tokens chosen in one way."""

    setup: str
    rtt_ms: float
    mbit: float | None
    rtt_steps: float | None
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One deployment on one network. Seconds, counts and bytes are those of a run over all prompts,
    medians over the repeats. What has a default is not in the rows of older runs: those were
    greedy.
    """

    deployment: str
    setup: str
    rtt_ms: float
    mbit: float | None
    rtt_steps: float | None
    rtt_measured_ms: float | None
    mbit_up_measured: float | None
    mbit_down_measured: float | None
    prompts: int
    tokens: int
    repeats: int
    total_s: float
    total_s_low: float
    total_s_high: float
    edge_s: float
    cloud_s: float
    network_s: float
    ttft_s: float
    itl_p50_s: float
    itl_p95_s: float
    cloud_requests: int
    bytes_up: int
    bytes_down: int
    wire_up: int
    wire_down: int
    offloaded: float
    agreement: float
    identical: float
    rouge_l: float
    split: int | None
    edge_depth: int | None
    threshold: float | None
    codec: str | None
    peer: bool
    pause_p50_s: float | None = None
    pause_p95_s: float | None = None
    cloud_passes: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    round_trips: int = 0
    waiting_s: float = 0.0
    near_ties: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    ratio_paired: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None

    @property
    def cell(self) -> CellKey:
        """The network it was measured on, and how tokens were chosen."""
        network = (self.setup, self.rtt_ms, self.mbit, self.rtt_steps)
        return CellKey(*network, self.temperature, self.top_p)

    def per_token(self, figure: str) -> float:
        """A figure of the run divided by its tokens."""
        return float(getattr(self, figure)) / self.tokens

    def to_json(self) -> dict[str, object]:
        """As written to a file: floats rounded to what was measured."""
        return {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, told: Mapping[str, object]) -> "Row":
        """Read one row.

        Raises:
            CommandError: keys are missing or unknown; they are named.
        """
        known = {field.name: field.default is MISSING for field in fields(cls)}
        if missing := sorted({name for name, needed in known.items() if needed} - set(told)):
            raise CommandError(f"a row lacks {', '.join(missing)}")
        if unknown := sorted(set(told) - set(known)):
            raise CommandError(f"a row has unknown keys: {', '.join(unknown)}")
        return cls(**told)  # type: ignore[arg-type]


def ratio(row: Row, baseline: Row) -> float:
    """Seconds a token of `row` over those of `baseline`."""
    return row.per_token("total_s") / baseline.per_token("total_s")


def baselines(rows: Sequence[Row]) -> dict[CellKey, Row]:
    """Cloud-only's row of every cell."""
    return {row.cell: row for row in rows if row.deployment == CLOUD_ONLY}


def load(path: Path) -> list[Row]:
    """Read a file of rows.

    Raises:
        CommandError: it cannot be read, or is no list of rows.
    """
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read rows from {path}: {error}") from error
    if not isinstance(told, list) or not all(isinstance(each, dict) for each in told):
        raise CommandError(f"{path} is no list of rows")
    return [Row.from_json(each) for each in told]


def save(path: Path, rows: Sequence[Row]) -> None:
    """Write `rows`, one to a line."""
    lines = ",\n".join(json.dumps(row.to_json()) for row in rows)
    path.write_text(f"[\n{lines}\n]\n")
