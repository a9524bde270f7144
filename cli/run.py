"""`tandem run`: both services in the foreground until they are told to stop.

It knows when to start and stop them; the services know everything else.
"""

import math
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL, exits_beside, make_bundles
from cli.processes import Plan, Service, require_free, running, wait_ready
from cli.terminal import console

BUNDLES = Path(".bundles")
POLL_SECONDS = 0.2
STOPS = (signal.SIGINT, signal.SIGTERM)


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
    for number in STOPS:
        signal.signal(number, _leave)
    if (edge_bundle is None) != (cloud_bundle is None):
        raise CommandError("give both bundles or neither: --edge-bundle and --cloud-bundle")
    require_free(host, {"--edge-port": edge_port, "--cloud-port": cloud_port})
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
    with running(plan) as (cloud, edge):
        # A large model takes minutes to load. An edge that has not found its cloud yet would answer
        # the first request alone.
        wait_ready(cloud, plan.cloud_url, seconds=math.inf)
        wait_ready(edge, plan.edge_url, seconds=math.inf, cloud="reachable")
        console(stderr=True).print(
            f"ready: edge on {plan.edge_url} (open it in a browser), cloud on {plan.cloud_url}"
        )
        _watch((cloud, edge))


def _leave(number: int, frame: FrameType | None) -> None:
    """End with exit code 0 wherever the command is; being told twice changes nothing."""
    del number, frame
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    raise SystemExit(0)


def _watch(services: tuple[Service, ...]) -> None:
    """Say who died, and raise when nobody is left."""
    alive = list(services)
    terminal = console(stderr=True)
    while True:
        time.sleep(POLL_SECONDS)
        for service in [service for service in alive if service.ending is not None]:
            alive.remove(service)
            others = " and ".join(other.name for other in alive) or "nothing"
            terminal.print(f"[bold red]the {service.name} {service.ending}[/]; {others} runs on")
        if not alive:
            raise CommandError("both services have ended")
