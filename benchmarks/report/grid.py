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
            time, a deployment is there twice on one network, or tokens were not chosen in one way
            everywhere.
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
        if chosen(row) != chosen(rows[0]):
            told = f"{chosen(row)}, the first row {chosen(rows[0])}: no page shows both"
            raise CommandError(f"row {number}: {told}")


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
    return sorted({row.cell for row in rows}, key=_order)


def _order(cell: CellKey) -> tuple[object, ...]:
    mbit = math.inf if cell.mbit is None else cell.mbit
    steps = cell.rtt_steps or 0
    return (cell.setup, mbit, cell.rtt_ms, steps, cell.temperature, cell.top_p)


def telling(rows: Sequence[Row], setup: str) -> list[CellKey]:
    """Up to four networks of a set-up to show in detail.

    Round trips in steps of the full model where there are some: a round trip in ms says little
    where a step takes a fifth of a 7B model's. Else the paper's bandwidth, else whatever is there.
    """
    cells = networks(row for row in rows if row.setup == setup and not row.peer)
    in_steps = [cell for cell in cells if cell.rtt_steps is not None]
    if in_steps:
        loopback = [cell for cell in cells if is_loopback(cell)]
        return [*loopback[:1], *in_steps[-(_TELLING - 1) :]]
    usual = [c for c in cells if c.mbit == PAPER_MBIT and c.rtt_ms in _TELLING_RTT_MS]
    return (usual or cells)[:_TELLING]


def is_loopback(cell: CellKey) -> bool:
    """Whether no network was emulated."""
    return cell.rtt_ms == 0 and cell.mbit is None and cell.rtt_steps is None


def round_trip(cell: CellKey) -> str:
    """The asked round trip as printed."""
    if cell.rtt_steps is not None:
        return f"{cell.rtt_steps:g} steps ({cell.rtt_ms:.3g} ms)"
    return "loopback" if is_loopback(cell) else f"{cell.rtt_ms:g} ms"


def rate(mbit: float | None) -> str:
    """An asked bandwidth as printed."""
    return "no limit" if mbit is None else f"{mbit:g} Mbit/s"


def network(cell: CellKey) -> str:
    """A network as printed, without its set-up."""
    return "loopback" if is_loopback(cell) else f"{round_trip(cell)}, {rate(cell.mbit)}"


def place(cell: CellKey) -> str:
    """A network with its set-up as printed, and how tokens were chosen where not greedily."""
    return ", ".join([cell.setup, network(cell), *([told] if (told := sampling(cell)) else [])])


def sampling(cell: CellKey) -> str:
    """How tokens were chosen as printed, but for the seed; empty where greedily."""
    if not cell.temperature:
        return ""
    mass = "" if cell.top_p == 1 else f", top-p {cell.top_p:g}"
    return f"temperature {cell.temperature:g}{mass}"


def chosen(row: Row) -> str:
    """How a row's tokens were chosen as printed, the run's seed included."""
    told = sampling(row.cell)
    return f"sampled at {told}, seed {row.seed}" if told else "greedy"


def milliseconds(value: float) -> str:
    """Milliseconds as printed in a picture: three digits tell all there is to see."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def is_baseline(row: Row) -> bool:
    """Whether others are held against it."""
    return row.deployment == CLOUD_ONLY
