"""Where rows stand: they are checked, networks named and put in order, rows looked up by place.

It knows what a row holds and neither how rows are measured nor how they are shown.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

from benchmarks.rows import CLOUD_ONLY, CellKey, Row, load
from cli.errors import CommandError

# The network the paper's table is held against: what its figures imply, in ms and Mbit/s.
PAPER_RTT_MS, PAPER_MBIT = 3.0, 30.0
# A full step of the paper's model (37 ms) lies amid these.
_TELLING_RTT_MS = (3.0, 20.0, 50.0, 100.0)
_TELLING = 4
_KINDS = get_type_hints(Row)


def read(path: Path) -> list[Row]:
    """Read rows that can be shown.

    Raises:
        CommandError: they cannot be read, a figure is no number, or a row is there twice.
    """
    rows = load(path)
    try:
        check(rows)
    except CommandError as error:
        raise CommandError(f"{path}: {error}") from error
    return rows


def check(rows: Sequence[Row]) -> None:
    """Refuse what no table can show.

    Raises:
        CommandError: there are no rows, a figure is no number, a run has no tokens or took no
            time, or a deployment is there twice on one network.
    """
    if not rows:
        raise CommandError("there are no rows")
    seen: set[tuple[CellKey, str]] = set()
    for number, row in enumerate(rows, start=1):
        for key, kind in _KINDS.items():
            if not _fits(getattr(row, key), kind):
                raise CommandError(f"row {number}: {key} cannot be {getattr(row, key)!r}")
        for key in ("prompts", "tokens", "repeats", "total_s"):
            if getattr(row, key) <= 0:
                raise CommandError(f"row {number}: {key} is {getattr(row, key)}, not above 0")
        if (row.cell, row.deployment) in seen:
            raise CommandError(f"row {number}: {row.deployment} is there twice, {place(row.cell)}")
        seen.add((row.cell, row.deployment))


def _fits(value: object, kind: object) -> bool:
    kinds = get_args(kind) or (kind,)
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int | float):
        # A figure told as 3 is 3.0, and a median of counts may lie between two.
        return (float in kinds or int in kinds) and math.isfinite(value)
    return type(value) in kinds


def by_place(rows: Iterable[Row]) -> Mapping[tuple[CellKey, str], Row]:
    """Rows by network and deployment."""
    return {(row.cell, row.deployment): row for row in rows}


def setups(rows: Iterable[Row]) -> list[str]:
    """Set-ups in the order they come in."""
    return list(dict.fromkeys(row.setup for row in rows))


def deployments(rows: Iterable[Row]) -> list[str]:
    """Names in the order they come in."""
    return list(dict.fromkeys(row.deployment for row in rows))


def bandwidths(rows: Iterable[Row]) -> list[float | None]:
    """Asked bandwidths in Mbit/s, rising; no limit comes last."""
    return sorted({row.mbit for row in rows}, key=lambda mbit: math.inf if mbit is None else mbit)


def networks(rows: Iterable[Row]) -> list[CellKey]:
    """Networks by bandwidth, then by round trip; no limit comes last."""
    cells = {row.cell for row in rows}
    return sorted(cells, key=lambda c: (c[0], math.inf if c[2] is None else c[2], c[1], c[3] or 0))


def telling(rows: Sequence[Row], setup: str) -> list[CellKey]:
    """Up to four networks of a set-up to show in detail.

    Round trips in steps of the full model where there are some: a round trip in ms says little
    where a step takes a fifth of a 7B model's. Else the paper's bandwidth, else whatever is there.
    """
    cells = networks(row for row in rows if row.setup == setup and not row.peer)
    in_steps = [cell for cell in cells if cell[3] is not None]
    if in_steps:
        loopback = [cell for cell in cells if is_loopback(cell)]
        return [*loopback[:1], *in_steps[-(_TELLING - 1) :]]
    usual = [cell for cell in cells if cell[2] == PAPER_MBIT and cell[1] in _TELLING_RTT_MS]
    return (usual or cells)[:_TELLING]


def is_loopback(cell: CellKey) -> bool:
    """Whether no network was emulated."""
    _, rtt_ms, mbit, steps = cell
    return rtt_ms == 0 and mbit is None and steps is None


def round_trip(cell: CellKey) -> str:
    """The asked round trip as printed."""
    _, rtt_ms, _, steps = cell
    if steps is not None:
        return f"{steps:g} steps ({rtt_ms:.3g} ms)"
    return "loopback" if is_loopback(cell) else f"{rtt_ms:g} ms"


def rate(mbit: float | None) -> str:
    """An asked bandwidth as printed."""
    return "no limit" if mbit is None else f"{mbit:g} Mbit/s"


def network(cell: CellKey) -> str:
    """A network as printed, without its set-up."""
    return "loopback" if is_loopback(cell) else f"{round_trip(cell)}, {rate(cell[2])}"


def place(cell: CellKey) -> str:
    """A network with its set-up as printed."""
    return f"{cell[0]}, {network(cell)}"


def milliseconds(value: float) -> str:
    """Milliseconds as printed in a picture: three digits tell all there is to see."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def is_baseline(row: Row) -> bool:
    """Whether others are held against it."""
    return row.deployment == CLOUD_ONLY
