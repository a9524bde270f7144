"""`tandem train`: the recipe of the reference model, run on a folder of text.

It knows the options and what to show; `training.backbone.recipe` knows the recipe.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cli.errors import CommandError
from cli.terminal import console

if TYPE_CHECKING:
    from training.backbone.loop import StepReport


def train(
    text: Annotated[Path, typer.Argument(help="Folder of text to learn from.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and its exits.")],
    minutes: Annotated[float, typer.Option(min=0, help="How long to train.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Decides weights and order of the text.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from where a run stopped.")] = False,
    start: Annotated[Path | None, typer.Option(help="Checkpoint to train further.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<n>.")] = "cpu",
) -> None:
    """Train a small model with early exits from a folder of text."""
    from training.backbone import recipe  # torch: seconds that --help should not cost
    from training.backbone.schedule import Budget
    from training.text.instructions import use_all_instructions

    use_all_instructions()
    if not text.is_dir():
        raise CommandError(f"{text} is no folder of text")
    terminal = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=terminal) as progress:
        task = progress.add_task("reading the text", total=1.0)

        def show(step: "StepReport") -> None:
            losses = ", ".join(f"{layer}: {loss:.2f}" for layer, loss in step.losses.items())
            speed = f"{step.tokens_per_second:.0f} tokens/s"
            words = f"step {step.position.step}, {speed}, loss by layer {losses}"
            progress.update(task, description=words, completed=step.progress)

        try:
            recipe.train(
                text,
                out,
                budget=Budget(minutes=minutes),
                seed=seed,
                resume=resume,
                start=start,
                device=device,
                report=show,
            )
        except (OSError, ValueError) as error:
            raise CommandError(f"training stopped: {error}") from error
    terminal.print(f"the checkpoint lies in {out}")
