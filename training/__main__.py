"""`python -m training`: the recipe's steps from the command line.

It reads arguments and shows what happens; each command calls one function that does the work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from shared.errors import BadModel
from shared.exits.calibration import TEXTS, Agreement, file_of
from shared.exits.traces import read_traces
from training.backbone import recipe
from training.backbone.progress import TrainingDisplay
from training.backbone.schedule import Budget
from training.calibration.agreement import make_agreement
from training.calibration.guarantee import DELTA
from training.evaluation.card import write_card
from training.evaluation.perplexity import evaluate
from training.evaluation.reading import identity
from training.evaluation.recorded import cut_of, usable
from training.evaluation.tracing import drafters_beside, traces_of, write_checkpoint_traces
from training.evaluation.tuning import tune_thresholds
from training.text.instructions import use_all_instructions

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Make the reference model.")
console = Console(highlight=False)
# Loading and writing a small model needs no bars of its own between our lines.
disable_progress_bar()

Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint folder with exits.")]
HeldOut = Annotated[Path, typer.Argument(help="Folder of held-out .jsonl.xz files.")]


def _chance(value: float) -> float:
    if not 0 < value < 1:
        raise typer.BadParameter("lies between 0 and 1")
    return value


Delta = Annotated[
    float, typer.Option(callback=_chance, help="Chance that a target is not held, in (0, 1).")
]


@app.command()
def train(
    text: Annotated[Path, typer.Argument(help="Folder of .jsonl.xz or .txt files.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and its exits.")],
    minutes: Annotated[float | None, typer.Option(min=0, help="Budget in time.")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Budget in tokens.")] = None,
    seed: int = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the run's checkpoint.")] = False,
    start: Annotated[Path | None, typer.Option(help="Checkpoint folder to train further.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for tokens and runs.")] = recipe.WORK,
    device: Device = "cpu",
) -> None:
    """Train a model and export it; its exits' thresholds are still to be tuned."""
    with TrainingDisplay(console) as display:
        recipe.train(
            text,
            out,
            budget=Budget(minutes=minutes, tokens=tokens),
            seed=seed,
            resume=resume,
            start=start,
            work=work,
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
            progress=lambda what, done, total: status.update(f"{what} {done}/{total}"),
        )
    for layer, threshold in zip(calibration.exits, calibration.thresholds, strict=True):
        console.print(f"exit {layer}: confidence > {threshold:g}")
    tested = calibration.tested_on
    if tested is None:
        console.print("there are no other prompts to test them on")
        return
    agreement = "nothing to agree" if tested.agreement is None else f"{tested.agreement:.1%} agree"
    console.print(f"on other prompts {tested.share:.1%} of tokens are kept, {agreement}")


@app.command()
def calibrate(
    folder: Checkpoint,
    held_out: HeldOut,
    *,
    traces: Annotated[
        Path | None,
        typer.Option(help="Folder of traces: written here, or taken from here with --reuse."),
    ] = None,
    reuse: Annotated[bool, typer.Option(help="Read no text again: take what is there.")] = False,
    prompts: Annotated[int | None, typer.Option(min=4, help="Prompts of a file; all.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to continue each prompt by.")] = 64,
    delta: Delta = DELTA,
    device: Device = "cpu",
) -> None:
    """Fit the chances of a checkpoint's exits, and thresholds that hold a target: agreement.json,
    agreement-sampled.json, and two for each drafter beside it.
    """
    if reuse and traces is None:
        raise typer.BadParameter("--reuse takes what is in --traces: name that folder")
    with _told(), TemporaryDirectory() as scratch:
        place = traces or Path(scratch)
        with console.status("reading continuations") as status:
            for text in () if reuse else TEXTS:
                write_checkpoint_traces(
                    folder,
                    held_out,
                    place,
                    text=text,
                    prompts=prompts,
                    tokens=tokens,
                    device=device,
                    progress=lambda done, total: status.update(f"continuations {done}/{total}"),
                )
        for cut, text in product((None, *drafters_beside(folder)), TEXTS):
            found = read_traces(place / traces_of(cut, text))
            _show(folder, make_agreement(folder, found, cut=cut, delta=delta), cut)


@app.command()
def recalibrate(
    folder: Checkpoint,
    recorded: Annotated[
        Path, typer.Argument(help="Traces an edge wrote (TANDEM_EDGE_EXIT_TRACES).")
    ],
    *,
    delta: Delta = DELTA,
) -> None:
    """Fit the same on texts that were served, with every exit asked everywhere (threshold 1). Whose
    exits were asked, a drafter's or the checkpoint's own, the traces say.
    """
    with _told():
        texts = usable(read_traces(recorded))
        console.print(
            f"{len(texts.traces)} texts of {texts.documents} conversations; left out: "
            f"{texts.partial} in which an exit was not asked everywhere, {texts.repeated} repeated"
        )
        if not texts.traces:
            raise ValueError(f"{recorded} has no text in which every exit was asked everywhere")
        if {trace.model_fingerprint for trace in texts.traces} != {identity(folder)}:
            raise ValueError(f"{recorded} was recorded with another model than {folder}")
        cut = cut_of(folder, texts.traces)
        for text in TEXTS:
            if found := [trace for trace in texts.traces if trace.kind == text]:
                _show(folder, make_agreement(folder, found, cut=cut, delta=delta), cut)


@contextmanager
def _told() -> Iterator[None]:
    """What is wrong with files or options is told in a line."""
    try:
        yield
    except (OSError, ValueError, BadModel) as error:
        raise typer.BadParameter(str(error)) from error


def _show(folder: Path, agreement: Agreement, cut: tuple[int, int] | None) -> None:
    console.print(f"{folder / file_of(cut, agreement.text)}:")
    for layer, fit in agreement.exits.items():
        errors = f"{fit.ece_before:.3f} before, {fit.ece_after:.3f} after"
        console.print(f"  exit {layer}: calibration error {errors}")
    for target in agreement.targets:
        console.print(
            f"  at most {target.max_disagreement:g} unlike the full model: "
            f"{target.offloaded:.1%} offloaded"
        )


@app.command(name="evaluate")
def evaluate_(
    folder: Checkpoint,
    held_out: HeldOut,
    *,
    before: Annotated[
        Path | None, typer.Option(help="Checkpoint that training began with, to compare with.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Measure a tuned checkpoint on held-out text and write its card."""
    with _told(), console.status("reading") as status:
        scores = evaluate(
            folder,
            held_out,
            before=before,
            device=device,
            progress=lambda name: status.update(f"reading {name}"),
        )
    for name, score in scores.items():
        figures = "  ".join(f"{layer}: {value:.1f}" for layer, value in score.perplexity.items())
        console.print(f"{name:24} perplexity by layer  {figures}")
    console.print(f"card: {write_card(folder)}")


def main() -> None:
    """Run a command with all that the processor has."""
    use_all_instructions()
    app()


if __name__ == "__main__":
    main()
