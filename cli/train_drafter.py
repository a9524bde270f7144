"""`tandem train-drafter`: teach what the edge holds above a split to draft for the whole model.

It knows the options and what to show; `training.heads.drafting` knows how a drafter is made.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from cli.errors import CommandError
from cli.terminal import console
from cli.translator import TranslatorOption, translator_shape
from shared.errors import BadModel


def train_drafter(
    model: Annotated[Path, typer.Argument(help="Folder of a Hugging Face checkpoint.")],
    text: Annotated[list[Path], typer.Argument(help="Files of text, or folders of them.")],
    *,
    split: Annotated[int, typer.Option(min=1, help="Layer where the cloud takes over.")],
    edge_depth: Annotated[int, typer.Option(min=1, help="Layer where the edge ends.")],
    minutes: Annotated[
        float | None, typer.Option(min=0, help="How long to teach; 5 if no steps are given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Most steps to teach.")] = None,
    translator: TranslatorOption = "affine",
    held_out: Annotated[
        Path | None,
        typer.Option(help="Folder of held-out prompts (.jsonl.xz); else text is set aside."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the drafter; beside the model if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides text and order.")] = 0,
) -> None:
    """Train a drafter for one cut; `tandem partition` then puts it into the edge's bundle."""
    # torch: seconds that --help should not cost
    from transformers.utils.logging import disable_progress_bar

    from training.heads import drafting
    from training.heads.distillation import Recipe

    disable_progress_bar()
    plan = drafting.DrafterPlan(
        split=split,
        edge_depth=edge_depth,
        minutes=5.0 if minutes is None and steps is None else minutes,
        steps=steps,
        seed=seed,
        recipe=Recipe(translator=translator_shape(translator)),
    )
    terminal = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task("reading the text", total=1.0)
        try:
            found = drafting.train_drafter(
                model,
                text,
                plan,
                out=out,
                held_out=held_out,
                report=lambda what, share: progress.update(task, description=what, completed=share),
            )
        except (BadModel, OSError, ValueError) as error:
            raise CommandError(f"no drafter could be trained: {error}") from error
    terminal.print(_accepted(found))
    terminal.print(f"the drafter lies in {out or model}; `tandem partition` puts it into the edge")


def _accepted(found: dict[str, Any]) -> Table:
    """Shares of drafts that are the whole model's tokens."""
    acceptance = found["acceptance"]
    table = Table(title="drafts that are the whole model's choice, on held-out prompts")
    for column in ("text", "tokens", "before", "after", "one of 2", "one of 4"):
        table.add_column(column)
    for kind, tokens in acceptance["tokens"].items():
        best = acceptance["best_of"][kind]
        shares = (acceptance["before"][kind], acceptance["after"][kind], best[1], best[3])
        table.add_row(kind, f"{tokens:,}", *(f"{share:.1%}" for share in shares))
    return table
