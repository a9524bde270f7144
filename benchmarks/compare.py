"""`python -m benchmarks.compare NEW REFERENCE`: has anything become slower, or different?

Machines differ, so seconds are not compared: ratios to cloud-only in the same cell are, and in the
paced set-up, where tokens do not depend on the machine, what was generated. Exit code 1 where
something is out of bounds, 2 where there is nothing to compare.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.rows import Row, baselines, load, ratio
from cli.errors import CommandError

# Figures of the tokens themselves, shares of one.
_OF_THE_TOKENS = ("agreement", "identical", "offloaded")
_SAME = 0.01
# Of ratios, relative. Paced steps repeat; real ones share the machine with everything else on it.
TOLERANCE_PACED, TOLERANCE_REAL = 0.05, 0.2


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of one deployment on one network that is not what it was."""

    row: Row
    figure: str
    now: float
    before: float

    def __str__(self) -> str:
        network = f"{self.row.rtt_ms:.3g} ms, {self.row.mbit or 'unlimited'} Mbit/s"
        place = f"{self.row.setup}, {network}, {self.row.deployment}"
        return f"{place}: {self.figure} {self.now:.3f}, was {self.before:.3f}"


def differences(
    new: Sequence[Row], reference: Sequence[Row], *, paced: float, real: float
) -> list[Difference]:
    """What differs by more than the tolerances (relative) of the two set-ups.

    Raises:
        ValueError: no deployment was measured on the same network in both.
    """
    base, base_before = baselines(new), baselines(reference)
    before = {(row.cell, row.deployment): row for row in reference if not row.peer}
    common = [
        (row, before[row.cell, row.deployment])
        for row in new
        if (row.cell, row.deployment) in before
    ]
    if not common:
        raise ValueError("the two have no deployment on the same network in common")
    found: list[Difference] = []
    for row, old in common:
        now, then = ratio(row, base[row.cell]), ratio(old, base_before[old.cell])
        if abs(now / then - 1) > (paced if row.setup == "paced" else real):
            found.append(Difference(row, "total / cloud-only", now, then))
        if row.setup == "paced" and (row.prompts, row.tokens) == (old.prompts, old.tokens):
            found += _of_tokens(row, old)
    return found


def _of_tokens(row: Row, old: Row) -> Iterator[Difference]:
    for figure in _OF_THE_TOKENS:
        now, then = float(getattr(row, figure)), float(getattr(old, figure))
        if abs(now - then) > _SAME:
            yield Difference(row, figure, now, then)


def main(
    new: Annotated[Path, typer.Argument(help="Rows of this run.")],
    reference: Annotated[Path, typer.Argument(help="Rows to hold it against.")],
    *,
    tolerance_paced: Annotated[float, typer.Option(help="Of ratios, relative.")] = TOLERANCE_PACED,
    tolerance_real: Annotated[float, typer.Option(help="Of ratios, relative.")] = TOLERANCE_REAL,
) -> None:
    """Compare the ratios to cloud-only of two runs."""
    try:
        found = differences(load(new), load(reference), paced=tolerance_paced, real=tolerance_real)
    except (CommandError, ValueError) as error:
        typer.echo(f"cannot compare: {error}", err=True)
        raise typer.Exit(2) from error
    for each in found:
        typer.echo(str(each))
    typer.echo(f"{len(found)} figures out of bounds" if found else "all within bounds")
    raise typer.Exit(1 if found else 0)


if __name__ == "__main__":
    typer.run(main)
