"""`python -m benchmarks.service edge|cloud`: a service as the benchmark runs it.

The services' own applications around a loaded bundle, pinned to a core, on request paced or with
the naive split's transport beneath the edge. Settings are the services' own.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, cast

import typer

from shared import environment

if TYPE_CHECKING:
    from fastapi import FastAPI

    from shared.model import SpanModel
    from shared.runtime.lifecycle import Lifecycle

Loading: TypeAlias = "Callable[[SpanModel], SpanModel]"


def main(
    side: Literal["edge", "cloud"],
    *,
    core: Annotated[int | None, typer.Option(help="CPU to stay on.")] = None,
    paced: Annotated[bool, typer.Option(help="Hold steps to the paper's unit costs.")] = False,
    device: Annotated[
        Path | None, typer.Option(help="File of a device shared with other paced services.")
    ] = None,
    notes: Annotated[Path | None, typer.Option(help="File that paced steps are noted in.")] = None,
    resend: Annotated[bool, typer.Option(help="Send the whole prefix each time.")] = False,
) -> None:
    """Serve until SIGTERM."""
    # The heavy imports come after: their threads stay on the core they are born on.
    if core is not None:
        os.sched_setaffinity(0, {core})
    loading: Loading = partial(_paced, device=device, notes=notes) if paced else _plain
    if side == "edge":
        _edge(loading, resend=resend)
    else:
        _cloud(loading)


def _edge(loading: "Loading", *, resend: bool) -> None:
    import httpx

    from benchmarks.resend import Resending
    from services.edge.main import create_app
    from services.edge.settings import Settings
    from shared.web import serving

    settings = environment.read(Settings)

    def application(model: "SpanModel", lifecycle: "Lifecycle") -> "FastAPI":
        model = loading(model)
        inner = httpx.AsyncHTTPTransport()
        transport = Resending(inner, model.shape.hidden) if resend else None
        return create_app(settings, model, lifecycle, cloud_transport=transport)

    serving.run(settings, application)


def _cloud(loading: "Loading") -> None:
    from services.cloud.main import create_app
    from services.cloud.settings import Settings
    from shared.web import serving

    settings = environment.read(Settings)

    def application(model: "SpanModel", lifecycle: "Lifecycle") -> "FastAPI":
        return create_app(settings, loading(model), lifecycle)

    serving.run(settings, application)


def _plain(model: "SpanModel") -> "SpanModel":
    return model


def _paced(model: "SpanModel", *, device: Path | None, notes: Path | None) -> "SpanModel":
    from benchmarks.notes import Notes
    from benchmarks.paced.device import Device
    from benchmarks.paced.model import PacedModel, Ran
    from benchmarks.paced.prices import PAPER_HIDDEN, paper_prices
    from shared.model import SpanModel

    prices = paper_prices().scaled_to(model.shape.depth)
    book = Notes(notes) if notes else None

    def note(ran: Ran) -> None:
        if book is not None:
            book.add(**asdict(ran))

    shared = Device(device) if device else None
    paced = PacedModel(model, prices, hidden=PAPER_HIDDEN, device=shared, note=note)
    return cast(SpanModel, paced)


if __name__ == "__main__":
    typer.run(main)
