"""`tandem partition`: one checkpoint in, two bundles out, one for each side.

It knows the options and what to show; `shared.model` knows how a model is cut.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from cli.errors import CommandError
from cli.terminal import console, size_of
from shared.errors import BadModel
from shared.exits.calibration import FILE as AGREEMENT
from shared.exits.calibration import read_agreement

if TYPE_CHECKING:
    from shared.model import Manifest

SHIPPED_MODEL = Path(__file__).parent.parent / "models" / "tandem-10m"


class Weights(StrEnum):
    """How a bundle keeps its weights; int8 and int4 compute in bfloat16."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"


def partition(
    model: Annotated[Path, typer.Argument(help="Folder of a Hugging Face checkpoint.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the two bundles: out/edge, out/cloud.")],
    split: Annotated[
        int | None,
        typer.Option(min=1, help="Layer where the cloud takes over; first exit if not given."),
    ] = None,
    edge_depth: Annotated[
        int | None, typer.Option(min=1, help="Layer where the edge ends; last exit if not given.")
    ] = None,
    weights: Annotated[Weights, typer.Option(help="The edge's weights.")] = Weights.FP32,
    cloud_weights: Annotated[Weights, typer.Option(help="The cloud's weights.")] = Weights.FP32,
    cloud_start: Annotated[
        int, typer.Option(min=0, help="First layer the cloud holds; 0 holds the whole model.")
    ] = 0,
    drafter: Annotated[
        bool, typer.Option(help="Put in the drafter for this cut, where one lies beside the model.")
    ] = True,
) -> None:
    """Cut a checkpoint into the bundle of the edge and the bundle of the cloud."""
    if split is None or edge_depth is None:
        first, last = exits_beside(model)
        split, edge_depth = split or first, edge_depth or last
    make_bundles(
        model,
        out,
        split=split,
        edge_depth=edge_depth,
        weights=weights,
        cloud_weights=cloud_weights,
        cloud_start=cloud_start,
        drafter=drafter,
    )


def exits_beside(model: Path) -> tuple[int, int]:
    """The first and the last layer with a trained exit beside a checkpoint.

    Raises:
        CommandError: there are none, so split and edge depth are the caller's to name.
    """
    layers = _trained(model)
    if not layers:
        raise CommandError(
            f"{model} has no exits beside it: teach it some (`tandem tune-exits --exits`), or, to "
            "partition it without, name --split and --edge-depth"
        )
    return layers[0], layers[-1]


def _trained(model: Path) -> list[int]:
    """The layers with a trained exit; none where there is no such list."""
    try:
        exits = json.loads((model / "exits.json").read_text())["exits"]
        return sorted(int(an_exit["layer"]) for an_exit in exits)
    except (OSError, ValueError, KeyError, TypeError):
        return []


def make_bundles(
    model: Path,
    out: Path,
    *,
    split: int,
    edge_depth: int,
    weights: Weights = Weights.FP32,
    cloud_weights: Weights = Weights.FP32,
    cloud_start: int = 0,
    drafter: bool = True,
) -> None:
    """Write `out`/edge and `out`/cloud with a progress bar, then say what each side holds.

    Raises:
        CommandError: the checkpoint cannot be cut so.
    """
    from shared.model import write_bundles  # torch: seconds that --help should not cost
    from shared.protocol.version import PROTOCOL_VERSION

    terminal = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task("partition", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        try:
            manifests = write_bundles(
                model,
                out,
                split=split,
                edge_depth=edge_depth,
                edge_format=weights,
                cloud_format=cloud_weights,
                cloud_start=cloud_start,
                protocol_version=PROTOCOL_VERSION,
                use_drafter=drafter,
                progress=show,
            )
        except (BadModel, OSError, ValueError) as error:
            raise CommandError(f"{model} cannot be partitioned: {error}") from error
    terminal.print(_holdings(model, out, manifests))
    if manifests[0].drafter is not None:
        shares = [f"{share:.1%} {kind}" for kind, share in manifests[0].drafter.items()]
        terminal.print(f"drafts that are the whole model's choice: {', '.join(shares)}")
    elif warning := untrained(model, split, edge_depth):
        terminal.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)
    agreement = read_agreement(out / "edge" / AGREEMENT)
    if agreement is not None and agreement.targets:
        targets = [f"{target.max_disagreement:.1%}" for target in agreement.targets]
        terminal.print(f"calibrated targets of disagreement: {', '.join(targets)}")


def untrained(model: Path, split: int, edge_depth: int) -> str | None:
    """What to expect of a cut in front of layers that have no trained exit; None where both do."""
    trained = _trained(model)
    cut = [str(layer) for layer in sorted({split, edge_depth} - set(trained))]
    if not cut:
        return None
    there = f"trained are those of {', '.join(map(str, trained))}" if trained else "none are"
    return (
        f"no exit is trained for layer {' and '.join(cut)}; {there}. An untrained exit reads the "
        "hidden state with the model's own head: it is seldom sure, and more often wrong"
    )


def _holdings(model: Path, out: Path, manifests: "tuple[Manifest, Manifest]") -> Table:
    """What each side holds."""
    table = Table(title=f"{model.name}, fingerprint {manifests[0].fingerprint[:16]}")
    for column in ("side", "layers", "weights", "size", "exits", "drafter", "folder"):
        table.add_column(column)
    for manifest in manifests:
        folder = out / manifest.role
        start, stop = manifest.span.start, manifest.span.stop
        table.add_row(
            manifest.role,
            f"{start} to {stop - 1} of {manifest.span.depth}",
            manifest.compute_format,
            size_of(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())),
            ", ".join(str(an_exit.layer) for an_exit in manifest.exits) or "none",
            _drafter(manifest),
            str(folder),
        )
    return table


def _drafter(manifest: "Manifest") -> str:
    """For which cut a bundle holds a drafter."""
    return "none" if manifest.drafter is None else f"{manifest.split} to {manifest.edge_depth}"


if __name__ == "__main__":
    # An image cuts its bundle before anything else of the command line can be imported.
    typer.run(partition)
