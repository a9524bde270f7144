"""`python -m benchmarks.service edge|cloud`: a service as the benchmark runs it.

The services' own applications around a loaded bundle, pinned to a core, on request paced or with
the naive split's transport beneath the edge. Settings are the services' own.
"""

import os
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from shared import environment

if TYPE_CHECKING:
    from fastapi import FastAPI

    from shared.model import SpanModel


def main(
    side: Literal["edge", "cloud"],
    *,
    core: Annotated[int | None, typer.Option(help="CPU to stay on.")] = None,
    paced: Annotated[bool, typer.Option(help="Hold steps to the paper's unit costs.")] = False,
    resend: Annotated[bool, typer.Option(help="Send the whole prefix each time.")] = False,
) -> None:
    """Serve until SIGTERM."""
    # The heavy imports come after: their threads stay on the core they are born on.
    if core is not None:
        os.sched_setaffinity(0, {core})
    if side == "edge":
        _edge(paced=paced, resend=resend)
    else:
        _cloud(paced=paced)


def _edge(*, paced: bool, resend: bool) -> None:
    import httpx

    from benchmarks.resend import Resending
    from services.edge.main import create_app
    from services.edge.settings import Settings
    from shared.web import serving

    settings = environment.read(Settings)

    def application(model: "SpanModel") -> "FastAPI":
        model = _paced(model) if paced else model
        inner = httpx.AsyncHTTPTransport()
        transport = Resending(inner, model.shape.hidden) if resend else None
        return create_app(settings, model, cloud_transport=transport)

    serving.run(settings, application)


def _cloud(*, paced: bool) -> None:
    from services.cloud.main import create_app
    from services.cloud.settings import Settings
    from shared.web import serving

    settings = environment.read(Settings)
    serving.run(settings, lambda model: create_app(settings, _paced(model) if paced else model))


def _paced(model: "SpanModel") -> "SpanModel":
    from benchmarks.paced.model import PacedModel
    from benchmarks.paced.prices import PAPER_HIDDEN, paper_prices
    from shared.model import SpanModel

    prices = paper_prices().scaled_to(model.shape.depth)
    return cast(SpanModel, PacedModel(model, prices, hidden=PAPER_HIDDEN))


if __name__ == "__main__":
    typer.run(main)
