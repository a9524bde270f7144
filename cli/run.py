"""`tandem run`: both services in the foreground until they are told to stop.

It knows when to start and stop them; the services know everything else.
"""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL, exits_beside, make_bundles
from cli.processes import Plan, Service, running
from cli.terminal import console

BUNDLES = Path(".bundles")


def run(
    *,
    model: Annotated[
        Path, typer.Option(help="Checkpoint to serve, where no bundles are given.")
    ] = SHIPPED_MODEL,
    edge_bundle: Annotated[Path | None, typer.Option(help="The edge's bundle.")] = None,
    cloud_bundle: Annotated[Path | None, typer.Option(help="The cloud's bundle.")] = None,
    host: Annotated[str, typer.Option(help="Address both listen on.")] = "127.0.0.1",
    edge_port: Annotated[int, typer.Option(help="Port of the edge.")] = 8000,
    cloud_port: Annotated[int, typer.Option(help="Port of the cloud.")] = 8001,
) -> None:
    """Start the edge and the cloud here; SIGINT or SIGTERM stops both."""
    told_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told_to_stop.set())
    if (edge_bundle is None) != (cloud_bundle is None):
        raise CommandError("give both bundles or neither: --edge-bundle and --cloud-bundle")
    if edge_bundle is None or cloud_bundle is None:
        split, edge_depth = exits_beside(model)
        folder = BUNDLES / model.resolve().name
        make_bundles(model, folder, split=split, edge_depth=edge_depth)
        edge_bundle, cloud_bundle = folder / "edge", folder / "cloud"
    plan = Plan(
        edge_bundle=edge_bundle,
        cloud_bundle=cloud_bundle,
        edge_port=edge_port,
        cloud_port=cloud_port,
        host=host,
    )
    with running(plan) as services:
        console(stderr=True).print(
            f"edge on {plan.edge_url} (open it in a browser), cloud on {plan.cloud_url}"
        )
        _watch(services, told_to_stop)


def _watch(services: tuple[Service, ...], told_to_stop: threading.Event) -> None:
    """Return when told to stop; say who died meanwhile, and raise when nobody is left."""
    alive = list(services)
    terminal = console(stderr=True)
    while not told_to_stop.wait(0.2):
        for service in [service for service in alive if service.ending is not None]:
            alive.remove(service)
            others = " and ".join(other.name for other in alive) or "nothing"
            terminal.print(f"[bold red]the {service.name} {service.ending}[/]; {others} runs on")
        if not alive:
            raise CommandError("both services have ended")
