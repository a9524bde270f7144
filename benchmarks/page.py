"""`python -m benchmarks.page FOLDER`: tables and plots from the rows of a run, beside them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import tables
from benchmarks.plots import draw
from benchmarks.rows import Row, load
from cli.errors import CommandError


def write_page(folder: Path) -> Path:
    """Write `latest.md` and the plots for the rows in `folder`; returns the page.

    Raises:
        CommandError: there are no rows, or no account of the run.
    """
    rows = load(folder / "latest.json")
    try:
        about = json.loads((folder / "about.json").read_text())
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read {folder / 'about.json'}: {error}") from error
    page = folder / "latest.md"
    page.write_text(text(rows, about, draw(rows, folder)))
    return page


def text(rows: Sequence[Row], about: Mapping[str, Any], pictures: Sequence[Path]) -> str:
    """The page on these rows, with links to the pictures beside it."""
    kind = "quick" if about["quick"] else "full"
    parts = [
        f"# Results of the {kind} benchmark\n",
        f"Commit `{about['commit']}`, {about['date']}, {about['machine']}; {about['seconds']} s.\n"
        f"{about['prompts']}: {rows[0].prompts} prompts, {rows[0].tokens // rows[0].prompts} "
        f"tokens each. Paced steps that could not hold their price: {about['late_steps']}.\n",
    ]
    for setup in dict.fromkeys(row.setup for row in rows):
        parts += _setup(rows, setup)
    paper = tables.beside_the_paper(rows)
    if paper:
        parts += ["## Beside the paper's table (paced, 3 ms, 30 Mbit/s)\n", paper]
    parts += ["## The price list\n", tables.unit_costs(about["unit_costs_ms"])]
    parts += ["## The emulated networks as measured\n", tables.calibration(rows)]
    parts += [f"![{picture.stem}]({picture.name})\n" for picture in pictures]
    return "\n".join(parts)


def _setup(rows: Sequence[Row], setup: str) -> list[str]:
    own = [row for row in rows if row.setup == setup]
    parts = [f"## {setup.capitalize()}\n"]
    for mbit in sorted({row.mbit for row in own if row.mbit}):
        parts += [f"### {mbit:g} Mbit/s\n", tables.ratios(rows, setup, mbit)]
    if any(row.rtt_steps for row in own):
        parts += ["### Loopback, and round trips in steps\n", tables.ratios(rows, setup, None)]
    places: tuple[tuple[float, float | None, str], ...] = (
        (0.0, None, "Loopback"),
        (3.0, 30.0, "3 ms, 30 Mbit/s"),
    )
    for rtt, limit, title in places:
        if any(row.cell == (setup, rtt, limit, None) for row in own):
            parts += [f"### {title}, every figure\n", tables.cell(rows, setup, rtt, limit)]
    return parts


def main(folder: Annotated[Path, typer.Argument(help="Folder with latest.json.")]) -> None:
    """Write tables and plots again."""
    typer.echo(write_page(folder))


if __name__ == "__main__":
    typer.run(main)
