"""`python -m benchmarks.report`: tables and plots from the rows of a run, beside them."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.report.page import write
from cli.errors import CommandError

RESULTS = Path(__file__).parents[1] / "results"


def main(
    *, results: Annotated[Path, typer.Option(help="Folder with latest.json, about.json.")] = RESULTS
) -> None:
    """Write latest.md and the plots for the rows in a folder."""
    try:
        page = write(results)
    except CommandError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(page)


if __name__ == "__main__":
    typer.run(main)
