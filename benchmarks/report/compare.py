"""`python -m benchmarks.report.compare NEW REFERENCE`: is anything slower, faster or different?

Machines differ, so seconds are not compared: ratios to cloud-only on the same network are, and in
the paced set-up, where tokens do not depend on the machine, what was generated. Exit code 1 where
something is out of tolerance, 2 where nothing can be compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.report import grid
from benchmarks.rows import CellKey, Row, baselines, ratio
from cli.errors import CommandError

TOLERANCE_PACED, TOLERANCE_REAL = 0.05, 0.15
# Absolute, of shares and of requests a token.
TOLERANCE_TOKENS = 0.01
_ROUNDING = 1e-9

# The network (its round trip in ms left out where it was asked for in steps) and the deployment.
Key = tuple[CellKey, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of one deployment on one network, in both runs; `allowed` as printed."""

    cell: CellKey
    deployment: str
    figure: str
    new: float
    reference: float
    allowed: str

    def __str__(self) -> str:
        told = f"{grid.place(self.cell)}: {self.deployment}: {self.figure}"
        return f"{told} {self.new:.3f}, reference {self.reference:.3f} (allowed {self.allowed})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was held against what; `absent` are the reference's rows that the new run lacks on a
    network it has.
    """

    compared: int
    differences: Sequence[Difference]
    absent: Sequence[Row]


def compare(
    new: Sequence[Row], reference: Sequence[Row], *, paced: float, real: float
) -> Comparison:
    """Hold every deployment that both have on a network against cloud-only there.

    Args:
        new, reference: rows that `grid.check` passed.
        paced, real: how far ratios may differ in that set-up, relative to the reference's.

    Raises:
        CommandError: nothing but cloud-only, or nothing at all, is in both.
    """
    ours, theirs = _by_key(new), _by_key(reference)
    pairs = [(row, theirs[key]) for key, row in ours.items() if key in theirs]
    if not pairs:
        raise CommandError(
            "the two runs have no deployment in common on the same network, sampled alike"
        )
    differences = list(_of_ratios(pairs, new, reference, paced=paced, real=real))
    differences += [each for row, old in pairs for each in _of_tokens(row, old)]
    # A quick run has fewer networks; on those it has, no deployment may be missing.
    networks = {cell for cell, _ in ours}
    absent = [row for key, row in theirs.items() if key not in ours and key[0] in networks]
    return Comparison(len(pairs), differences, absent)


def _by_key(rows: Sequence[Row]) -> Mapping[Key, Row]:
    """By what was asked for, cloud-only and rows without one left out: their ratio says nothing."""
    base = baselines(rows)
    return {_key(row): row for row in rows if row.cell in base and not grid.is_baseline(row)}


def _key(row: Row) -> Key:
    # Where steps were asked for, milliseconds follow from this machine's own step.
    cell = row.cell if row.rtt_steps is None else row.cell._replace(rtt_ms=0.0)
    return (cell, row.deployment)


def _of_ratios(
    pairs: Sequence[tuple[Row, Row]],
    new: Sequence[Row],
    reference: Sequence[Row],
    *,
    paced: float,
    real: float,
) -> Iterator[Difference]:
    base, base_before = baselines(new), baselines(reference)
    for row, old in pairs:
        now, before = ratio(row, base[row.cell]), ratio(old, base_before[old.cell])
        tolerance = paced if row.setup == "paced" else real
        if abs(now / before - 1) > tolerance + _ROUNDING:
            name, allowed = "total over cloud-only's", f"{100 * tolerance:.3g} % either way"
            yield Difference(row.cell, row.deployment, name, now, before, allowed)


def _of_tokens(row: Row, old: Row) -> Iterator[Difference]:
    """What differs in the tokens themselves; other prompts, lengths or seeds give other tokens."""
    asked, asked_before = ((each.prompts, each.tokens, each.seed) for each in (row, old))
    if row.setup != "paced" or asked != asked_before:
        return
    figures = {
        "agreement": (row.agreement, old.agreement),
        "identical": (row.identical, old.identical),
        "requests/token": (row.per_token("cloud_requests"), old.per_token("cloud_requests")),
    }
    for name, (now, before) in figures.items():
        if abs(now - before) > TOLERANCE_TOKENS + _ROUNDING:
            allowed = f"{TOLERANCE_TOKENS} either way"
            yield Difference(row.cell, row.deployment, name, now, before, allowed)


def main(
    new: Annotated[Path, typer.Argument(help="Rows of this run.")],
    reference: Annotated[Path, typer.Argument(help="Rows to hold it against.")],
    *,
    tolerance_paced: Annotated[
        float, typer.Option(min=0, help="Of ratios, relative.")
    ] = TOLERANCE_PACED,
    tolerance_real: Annotated[
        float, typer.Option(min=0, help="Of ratios, relative.")
    ] = TOLERANCE_REAL,
) -> None:
    """Compare the ratios to cloud-only of two runs; exit code 1 where any is out of tolerance."""
    try:
        told = compare(
            grid.read(new), grid.read(reference), paced=tolerance_paced, real=tolerance_real
        )
    except CommandError as error:
        typer.echo(f"cannot compare: {error}", err=True)
        raise typer.Exit(2) from error
    for each in told.differences:
        typer.echo(str(each))
    for row in told.absent:
        typer.echo(f"only in the reference: {grid.place(row.cell)}: {row.deployment}")
    typer.echo(f"{told.compared} rows compared, {len(told.differences)} figures out of tolerance")
    raise typer.Exit(1 if told.differences or told.absent else 0)


if __name__ == "__main__":
    typer.run(main)
