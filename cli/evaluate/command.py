"""`tandem evaluate`: a checkpoint, its exits and every way of serving it, on one file of documents.

It knows the options and in which order things happen; `training.assessment` measures the model,
`asking` a running pair of services.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cli.errors import CommandError
from cli.evaluate.findings import Findings
from cli.evaluate.modes import Told, ask_services
from cli.evaluate.plots import draw
from cli.evaluate.settings import NAMES, setting
from cli.evaluate.tables import report
from cli.partition import SHIPPED_MODEL, exits_beside, make_bundles
from cli.terminal import console
from shared.errors import BadModel

if TYPE_CHECKING:
    from training.documents import Document

LONGEST_PROMPT = 1500  # tokens; longer ones are passed over


def evaluate(
    documents: Annotated[
        Path,
        typer.Argument(
            help='JSON lines of {"prompt", "reference"}; rows with a "prompt" alone are asked '
            'only, rows with a "text" are read only. .xz is read.'
        ),
    ],
    *,
    model: Annotated[Path, typer.Option(help="Checkpoint with exits.")] = SHIPPED_MODEL,
    count: Annotated[int, typer.Option(min=1, help="Documents to take.")] = 50,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer.")] = 64,
    score_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of references and texts to score, about.")
    ] = 20_000,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--setting",
            help='Ask in this setting instead of all, e.g. "collaborative, 0.8" or "split, int8": '
            "a mode, then a threshold, a codec or parameter=value. May be repeated.",
        ),
    ] = None,
    services: Annotated[
        bool, typer.Option(help="Start both services and ask them; without, a quick look.")
    ] = True,
    drafter: Annotated[
        bool, typer.Option(help="Give the edge its drafter, where one lies beside the model.")
    ] = True,
    device: Annotated[str, typer.Option(help="To read on: cpu, cuda or cuda:<n>.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Write the tables here too.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder to draw plots into.")] = None,
) -> None:
    """Measure perplexity, agreement, thresholds and ROUGE-L on a file, and what each mode costs."""
    settings = [setting(name) for name in only or NAMES] if services else []
    for file in (out, json_file):
        _check_folder(file)
    split, edge_depth = exits_beside(model)
    rows = _documents(documents, count)
    sizes = {"new_tokens": max_new_tokens, "scored_tokens": score_tokens}
    with _shown() as told:
        findings = _assess(model, rows, sizes, told, file=documents.name, device=device)
    if settings and findings.assessment.prompts:
        with tempfile.TemporaryDirectory(prefix="tandem-evaluate-") as name:
            folder = Path(name)
            make_bundles(model, folder, split=split, edge_depth=edge_depth, drafter=drafter)
            with _shown() as told:
                asked = ask_services(
                    model, folder, settings, findings.assessment, told, tokens=max_new_tokens
                )
            findings = replace(findings, rows=asked, drafter=_has_drafter(folder))
    _show(findings, out=out, json_file=json_file, plots=plots)


def _check_folder(file: Path | None) -> None:
    """Whether a file can be written, before minutes are spent on what it shall hold."""
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise CommandError(f"{file} cannot be written: no such folder, or itself one")


def _documents(path: Path, count: int) -> "list[Document]":
    from training.documents import read_documents

    try:
        return list(islice(read_documents(path), count))
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error


def _assess(
    model: Path,
    documents: "list[Document]",
    sizes: dict[str, int],
    told: Told,
    *,
    file: str,
    device: str,
) -> Findings:
    """All that needs no service: figures of the model and its exits."""
    from transformers.utils.logging import disable_progress_bar

    from shared.model.checkpoint import read_checkpoint
    from shared.model.fingerprint import fingerprint
    from training.assessment import assess
    from training.reading import Reader

    disable_progress_bar()
    try:
        told("loading the model", 0, 1)
        reader = Reader(model, device=device)
        told("loading the model", 1, 1)
        found = assess(reader, documents, longest=LONGEST_PROMPT, progress=told, **sizes)
        return Findings(
            model=model.resolve().name,
            fingerprint=fingerprint(model, read_checkpoint(model)),
            file=file,
            depth=reader.layers[-1],
            thresholds=reader.thresholds,
            assessment=found,
            drafter=False,
            rows=[],
        )
    except (BadModel, OSError, ValueError) as error:
        raise CommandError(f"{model} cannot be evaluated: {error}") from error


def _has_drafter(bundles: Path) -> bool:
    from shared.model import Manifest

    return Manifest.read(bundles / "edge").drafter is not None


@contextmanager
def _shown() -> Iterator[Told]:
    """A bar on stderr for each thing that is done, made when it is first told of."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    with Progress(*columns, console=console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=min(done, total), total=total)

        yield told


def _show(
    findings: Findings, *, out: Path | None, json_file: Path | None, plots: Path | None
) -> None:
    tables = report(findings)
    typer.echo(tables)
    content = json.dumps(findings.content(), indent=2, allow_nan=False)
    for file, text in ((out, tables), (json_file, content)):
        if file is not None:
            try:
                file.write_text(text + "\n")
            except OSError as error:
                raise CommandError(f"{file} cannot be written: {error}") from error
    if plots is not None:
        for picture in draw(findings, plots):
            console(stderr=True).print(f"drawn: {picture}", soft_wrap=True)
