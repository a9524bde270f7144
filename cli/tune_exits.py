"""`tandem tune-exits`: each exit's default threshold, and with --exits the exits themselves.

It knows the options and what to show; `training.evaluation.tuning` knows how thresholds are chosen,
`training.heads.exit_learning` how exits are taught.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from cli.errors import CommandError
from cli.terminal import console
from cli.translator import TranslatorOption, translator_shape
from shared.errors import TandemError

if TYPE_CHECKING:
    from training.heads.exit_learning import ExitPlan


def tune_exits(
    model: Annotated[Path, typer.Argument(help="Folder of a Hugging Face checkpoint.")],
    held_out: Annotated[
        Path | None, typer.Argument(help="Folder of held-out prompts and text (JSON lines, .xz).")
    ] = None,
    *,
    exits: Annotated[
        str, typer.Option(help="Teach exits in front of these layers: 3,6. Else only thresholds.")
    ] = "",
    text: Annotated[
        list[Path] | None, typer.Option(help="Text to teach on: .jsonl(.xz), .txt, or folders.")
    ] = None,
    own: Annotated[
        bool, typer.Option("--self", help="Teach on text that the model writes itself.")
    ] = False,
    translator: TranslatorOption = "affine",
    minutes: Annotated[
        float | None, typer.Option(min=0, help="How long to teach; 5 if no steps are given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Most steps to teach.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the exits; beside the model if not given.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the model into --out too.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace exits that are there.")] = (
        False
    ),
    target: Annotated[
        float, typer.Option(min=0, max=1, help="Agreement of kept tokens with the full model.")
    ] = 0.95,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts of each file to use.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to continue each prompt by.")] = 96,
    seed: Annotated[int, typer.Option(help="Decides text and order of the teaching.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<n>.")] = "cpu",
) -> None:
    """Calibrate the exits' thresholds; with --exits, teach a model without exits some first.

    The checkpoint's own files are never changed.
    """
    if not exits:
        given: dict[str, Any] = {"--text": text, "--self": own, "--minutes": minutes}
        given |= {"--steps": steps, "--translator": translator != "affine", "--seed": seed}
        given |= {"--out": out, "--copy": copy, "--replace": replace}
        _thresholds(model, _held_out(given, held_out), target, prompts, tokens, device=device)
        return
    from training.heads.exit_learning import ExitPlan  # torch: seconds that --help should not cost

    plan = ExitPlan(
        exits=_layers(exits),
        translator=translator_shape(translator),
        minutes=5.0 if minutes is None and steps is None else minutes,
        steps=steps,
        own=own,
        target=target,
        prompts=prompts,
        answer=tokens,
        seed=seed,
    )
    places = {"texts": text or [], "held_out": held_out, "out": out, "copy": copy}
    _learn(model, plan, {**places, "replace": replace, "device": device})


def _held_out(teaching: dict[str, Any], held_out: Path | None) -> Path:
    """Refuse options that say nothing to the thresholds alone; returns the held-out folder."""
    for name, given in teaching.items():
        if given:
            raise CommandError(f"{name} is for teaching exits: --exits names their layers")
    if held_out is None:
        raise CommandError("thresholds are chosen on a folder of held-out prompts: name one")
    return held_out


def _thresholds(
    model: Path, held_out: Path, target: float, prompts: int, tokens: int, *, device: str
) -> None:
    from training.evaluation.tuning import (
        tune_thresholds,  # torch: seconds that --help should not cost
    )

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
                progress=lambda what, done, total: progress.update(
                    task, description=what, completed=done, total=total
                ),
            )
        except (TandemError, OSError, ValueError) as error:
            raise CommandError(f"the exits cannot be tuned: {error}") from error
    terminal.print(f"thresholds and what they are worth: {model}/exits.json, calibration.json")


def _learn(model: Path, plan: "ExitPlan", how: dict[str, Any]) -> None:
    # torch: seconds that --help should not cost
    from transformers.utils.logging import disable_progress_bar

    from training.heads.exit_learning import learn_exits

    disable_progress_bar()
    terminal = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task("reading the model", total=1.0)
        try:
            found = learn_exits(
                model,
                plan,
                report=lambda what, share: progress.update(task, description=what, completed=share),
                **how,
            )
        except (TandemError, OSError, ValueError, ImportError) as error:
            raise CommandError(f"no exits could be taught: {error}") from error
    terminal.print(_taught(found))
    terminal.print(f"exits, thresholds and curve (translators.png) lie in {how['out'] or model}")
    terminal.print("for max_disagreement calibrate them: python -m training calibrate")


def _layers(exits: str) -> tuple[int, ...]:
    named = [part.strip() for part in exits.split(",")]
    if not all(part.isdecimal() for part in named):
        raise CommandError(f"--exits {exits} is no list of layers, like 3,6")
    return tuple(sorted({int(part) for part in named}))


def _taught(found: dict[str, Any]) -> Table:
    """How near each exit is to the end, before and after."""
    table = Table(title=f"{found['held_out_tokens']:,} held-out tokens, {found['steps']} steps")
    for column in ("exit", "agreement: logit lens", "taught", "divergence, nats", "taught"):
        table.add_column(column)
    first, last = found["curve"][0]["exits"], found["curve"][-1]["exits"]
    for layer in first:
        shares = (first[layer]["agreement"], last[layer]["agreement"])
        nats = (first[layer]["divergence"], last[layer]["divergence"])
        table.add_row(layer, *(f"{n:.1%}" for n in shares), *(f"{n:.3f}" for n in nats))
    return table
