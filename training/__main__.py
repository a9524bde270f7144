"""`python -m training`: the recipe's four steps from the command line.

It reads arguments and shows what happens; each command calls one function that does the work.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from training import recipe
from training.card import write_card
from training.evaluation import evaluate
from training.progress import TrainingDisplay
from training.tuning import tune_thresholds

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make the reference model.")
console = Console(highlight=False)
# Loading and writing a small model needs no bars of its own between our lines.
disable_progress_bar()

Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint folder with exits.")]
HeldOut = Annotated[Path, typer.Argument(help="Folder of held-out .jsonl.xz files.")]


@app.command()
def train(
    text: Annotated[Path, typer.Argument(help="Folder of .jsonl.xz or .txt files.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and its exits.")],
    minutes: Annotated[float | None, typer.Option(min=0, help="Budget in time.")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Budget in tokens.")] = None,
    seed: int = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the run's checkpoint.")] = False,
    device: Device = "cpu",
) -> None:
    """Train a model and export it; its exits' thresholds are still to be tuned."""
    with TrainingDisplay(console) as display:
        recipe.train(
            text,
            out,
            minutes=minutes,
            tokens=tokens,
            seed=seed,
            resume=resume,
            device=device,
            report=display,
        )


@app.command()
def tune(
    folder: Checkpoint,
    held_out: HeldOut,
    *,
    target: Annotated[float, typer.Option(help="Agreement kept tokens must reach.")] = 0.95,
    device: Device = "cpu",
) -> None:
    """Choose the thresholds of a checkpoint's exits."""
    with console.status("reading continuations") as status:
        calibration = tune_thresholds(
            folder,
            held_out,
            target=target,
            device=device,
            progress=lambda done, total: status.update(f"reading continuations {done}/{total}"),
        )
    for layer, threshold in zip(calibration.exits, calibration.thresholds, strict=True):
        console.print(f"exit {layer}: confidence > {threshold:g}")
    tested = calibration.tested_on
    agreement = "nothing to agree" if tested.agreement is None else f"{tested.agreement:.1%} agree"
    console.print(f"on other prompts {tested.share:.1%} of tokens are kept, {agreement}")


@app.command(name="evaluate")
def evaluate_(folder: Checkpoint, held_out: HeldOut, *, device: Device = "cpu") -> None:
    """Measure a tuned checkpoint on held-out text and write its card."""
    with console.status("reading") as status:
        scores = evaluate(
            folder, held_out, device=device, progress=lambda name: status.update(f"reading {name}")
        )
    for name, score in scores.items():
        figures = "  ".join(f"{layer}: {value:.1f}" for layer, value in score.perplexity.items())
        console.print(f"{name:24} perplexity by layer  {figures}")
    console.print(f"card: {write_card(folder)}")


if __name__ == "__main__":
    app()
