"""`python -m benchmarks.simulate`: the protocol as a discrete-event model, validated and applied.

Reads the rows and traces of a run, and writes `simulation.json`, `simulation.md` and two pictures
beside them.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import rows
from benchmarks.simulate import fleet, page, paper, shapes
from benchmarks.simulate.queueing import load, noticed_at
from benchmarks.simulate.validate import (
    Prediction,
    Validation,
    predict,
    traces_of,
    validate,
)
from benchmarks.simulate.world import Software, Wire
from cli.errors import CommandError

RESULTS = Path(__file__).parents[1] / "results"
DEPTH = 12  # layers of the model that was paced
BESIDE_THE_PAPER = "CE-CoLLM 49.6%, half"
EDGES = (1, 10, 30, 100, 300, 1000, 10_000, 100_000)
THINK_SECONDS = (0.0, 10.0)


def main(
    *,
    results: Annotated[Path, typer.Option(help="Folder with latest.json and traces.json.")] = (
        RESULTS
    ),
    also: Annotated[
        list[Path] | None, typer.Option(help="Folder of another run to predict; repeat for more.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Largest error of a predicted cell.")] = 0.05,
) -> None:
    """Validate against measured cells, reproduce the paper, go to other sizes and fleets."""
    found = _validated(results)
    others = {folder.name: _predicted(folder, found.software) for folder in also or []}
    reproduced = paper.reproduce()
    traces = traces_of(json.loads((results / "traces.json").read_text()))
    way = paper.way_to_the_paper(
        traces[BESIDE_THE_PAPER], Wire(rtt=3.0, up=30.0, down=30.0), found.software
    )
    longer = paper.break_even_ms()
    points = shapes.sweep(found.software)
    even = {
        (shape.name, name, mbit): shapes.break_even(shape, name, mbit, found.software)
        for shape in shapes.SHAPES.values()
        for name in shapes.KINDS
        for mbit in shapes.MEGABITS
    }
    fleets, noticed = _fleets(found.software)
    pictures = page.draw(points, fleets, results)
    text = "\n".join((
        "# Simulation\n",
        "## Against the measured paced cells\n", page.validation(found),
        *(f"Run `{n}`, not fitted to:\n\n{page.predicted(those)}" for n, those in others.items()),
        "## The paper's own run, by its unit costs\n", page.paper(reproduced, way),
        f"By its own costs it breaks even with cloud-only at {longer:.1f} ms more of round trip.\n",
        "## Other sizes: total over cloud-only's, simulated\n", page.sizes(points, even),
        "## Fleets: one cloud of a 7B model, 20 ms, 30 Mbit/s\n", page.fleets(fleets, noticed),
        *(f"![{picture.stem}]({picture.name})\n" for picture in pictures),
    ))  # fmt: skip
    (results / "simulation.md").write_text(text)
    told = {
        **_of_validation(found),
        "paper": [{**asdict(each), "error": each.error} for each in reproduced],
        "paper_break_even_ms": longer,
        "way_to_the_paper": [asdict(each) for each in way],
        "shapes": [asdict(each) for each in points],
        "fleets": [asdict(each) for each in fleets],
        "noticed": [
            {"service": name, "think_s": think, "edges": edges}
            for (name, think), edges in noticed.items()
        ],
    }
    (results / "simulation.json").write_text(json.dumps(told, indent=1) + "\n")
    typer.echo(text)
    if found.worst > tolerance:
        typer.echo(f"a cell is off by {found.worst:.1%}, more than {tolerance:.0%}", err=True)
        raise typer.Exit(1)


def _of_validation(found: Validation) -> dict[str, object]:
    return {
        "software": asdict(found.software),
        "worst_error": found.worst,
        "median_error": found.median,
        "predicted": [
            {**_cell(each.row.to_json()), "simulated_s": each.total_s, "error": each.error}
            for each in found.predicted
        ],
    }


def _fleets(
    software: Software,
) -> tuple[list[page.FleetPoint], dict[tuple[str, float], int]]:
    """Every service at every size, and where its users notice one another."""
    points, noticed = [], {}
    for think in THINK_SECONDS:
        for name, each in fleet.fleets(fleet.Users(think_s=think), software).items():
            points += [page.FleetPoint(name, think, load(each, edges)) for edges in EDGES]
            noticed[name, think] = noticed_at(each)
    return points, noticed


def _validated(results: Path) -> Validation:
    try:
        traces = traces_of(json.loads((results / "traces.json").read_text()))
        return validate(rows.load(results / "latest.json"), traces, depth=DEPTH)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CommandError) as error:
        typer.echo(f"cannot validate with {results}: {error}", err=True)
        raise typer.Exit(2) from error


def _predicted(folder: Path, software: Software) -> list[Prediction]:
    """The rows of another run that had a network."""
    try:
        traces = traces_of(json.loads((folder / "traces.json").read_text()))
        found = predict(rows.load(folder / "latest.json"), traces, software, depth=DEPTH)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CommandError) as error:
        typer.echo(f"cannot predict {folder}: {error}", err=True)
        raise typer.Exit(2) from error
    return [each for each in found if each.row.rtt_ms > 0]


def _cell(row: dict[str, object]) -> dict[str, object]:
    return {key: row[key] for key in ("deployment", "rtt_ms", "mbit", "total_s")}


if __name__ == "__main__":
    typer.run(main)
