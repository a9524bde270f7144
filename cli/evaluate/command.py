"""`tandem evaluate`: a checkpoint, its exits and every way of serving it, on one file of documents.

It knows the options and in which order things happen; `training.evaluation.assessment` measures the
model, `modes` asks a running pair of services.
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
    from training.text.documents import Document

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
    traces: Annotated[
        Path | None, typer.Option(help="Write what exits said along the model's answers here.")
    ] = None,
) -> None:
    """Measure perplexity, agreement, thresholds and ROUGE-L on a file, and what each mode costs."""
    settings = [setting(name) for name in only or NAMES] if services else []
    for file in (out, json_file, traces):
        _check_folder(file)
    split, edge_depth = exits_beside(model)
    rows = _documents(documents, count)
    if traces is not None and all(row.prompt is None for row in rows):
        raise CommandError(f"--traces are of answers to prompts, and {documents} has none")
    sizes = {"new_tokens": max_new_tokens, "scored_tokens": score_tokens}
    with _shown() as told:
        cut = _cut(model, split, edge_depth) if drafter else None
        findings = _assess(model, rows, sizes, told, cut=cut, file=documents.name, device=device)
    if settings and findings.assessment.prompts:
        with tempfile.TemporaryDirectory(prefix="tandem-evaluate-") as name:
            folder = Path(name)
            make_bundles(model, folder, split=split, edge_depth=edge_depth, drafter=drafter)
            with _shown() as told:
                asked = ask_services(model, folder, settings, findings.assessment, told)
            findings = replace(findings, rows=asked)
    _show(findings, out=out, json_file=json_file, plots=plots, traces=traces)


def _check_folder(file: Path | None) -> None:
    """Whether a file can be written, before minutes are spent on what it shall hold."""
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise CommandError(f"{file} cannot be written: no such folder, or itself one")


def _documents(path: Path, count: int) -> "list[Document]":
    from training.text.documents import read_documents

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
    cut: tuple[int, int] | None,
    file: str,
    device: str,
) -> Findings:
    """All that needs no service: figures of the model and its exits, a drafter's cut in place."""
    from transformers.utils.logging import disable_progress_bar

    from shared.model.exits import exits_sha256, read_agreement_beside
    from training.evaluation.assessment import assess
    from training.evaluation.reading import Reader, identity

    disable_progress_bar()
    try:
        told("loading the model", 0, 1)
        reader, weights = Reader(model, cut=cut, device=device), identity(model)
        told("loading the model", 1, 1)
        return Findings(
            model=model.resolve().name,
            fingerprint=weights,
            exits_sha256=exits_sha256(model, cut),
            file=file,
            depth=reader.layers[-1],
            thresholds=reader.thresholds,
            assessment=assess(
                reader,
                documents,
                agreement=read_agreement_beside(model, weights, cut),
                longest=LONGEST_PROMPT,
                progress=told,
                **sizes,
            ),
            drafter=cut is not None,
            rows=[],
        )
    except (BadModel, OSError, ValueError) as error:
        raise CommandError(f"{model} cannot be evaluated: {error}") from error


def _cut(model: Path, split: int, edge_depth: int) -> tuple[int, int] | None:
    """The edge's cut where a drafter for it lies beside the model, None where none does."""
    from shared.model.exits import drafter_files

    there = drafter_files(model, split, edge_depth)[0].exists()
    return (split, edge_depth) if there else None


def _write_traces(file: Path, findings: Findings) -> None:
    """What the exits said along the full model's answers, a line for each."""
    from shared.exits.traces import write_traces
    from training.evaluation.tracing import as_trace

    found = findings.assessment
    source = findings.file.split(".")[0]
    traces = (
        as_trace(
            answer.reading,
            findings.exits,
            model_fingerprint=findings.fingerprint,
            exits_sha256=findings.exits_sha256,
            document=f"{source}-{prompt.line}",
            source=source,
        )
        for prompt, answer in zip(found.prompts, found.answers, strict=True)
    )
    write_traces(file, traces)


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
    findings: Findings,
    *,
    out: Path | None,
    json_file: Path | None,
    plots: Path | None,
    traces: Path | None,
) -> None:
    tables = report(findings)
    typer.echo(tables)
    try:
        if out is not None:
            out.write_text(tables + "\n")
        if json_file is not None:
            content = json.dumps(findings.content(), indent=2, allow_nan=False)
            json_file.write_text(content + "\n")
        if traces is not None:
            _write_traces(traces, findings)
    except OSError as error:
        raise CommandError(f"the figures cannot be written: {error}") from error
    for picture in draw(findings, plots) if plots is not None else ():
        console(stderr=True).print(f"drawn: {picture}", soft_wrap=True)
