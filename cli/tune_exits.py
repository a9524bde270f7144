"""`tandem tune-exits`: choose each exit's default threshold on held-out text.

It knows the options and what to show; `training.tuning` knows how thresholds are chosen.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cli.errors import CommandError
from cli.terminal import console


def tune_exits(
    model: Annotated[Path, typer.Argument(help="Checkpoint with exits.")],
    held_out: Annotated[Path, typer.Argument(help="Folder of held-out prompts (JSON lines, .xz).")],
    *,
    target: Annotated[
        float, typer.Option(min=0, max=1, help="Agreement of kept tokens with the full model.")
    ] = 0.95,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts of each file to use.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to continue each prompt by.")] = 96,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<n>.")] = "cpu",
) -> None:
    """Calibrate the exits' thresholds and write them beside the checkpoint."""
    from training.tuning import tune_thresholds  # torch: seconds that --help should not cost

    terminal = console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=terminal
    ) as progress:
        task = progress.add_task("continuing held-out prompts", total=None)
        try:
            tune_thresholds(
                model,
                held_out,
                target=target,
                prompts=prompts,
                tokens=tokens,
                device=device,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        except (OSError, ValueError) as error:
            raise CommandError(f"the exits cannot be tuned: {error}") from error
    terminal.print(f"thresholds and what they are worth: {model}/exits.json, calibration.json")
