"""A service as a process's only work: from its settings to a bundle, an application and a socket,
until SIGTERM or SIGINT, then a graceful end with exit code 0.
"""

import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
import uvicorn
from fastapi import FastAPI

from shared import environment, logs
from shared.model import SpanModel, load_bundle
from shared.runtime.cores import model_threads, usable_cores

_log = logging.getLogger(__name__)

# How long an idle connection is kept: longer than clients and proxies keep theirs, so that no
# request meets a connection that is being closed.
KEEP_ALIVE_SECONDS = 75
# How long one thread of Python may keep the others waiting. By default 5 ms: the engine's thread
# needs the interpreter between any two operators, and the event loop has messages to pack.
SWITCH_SECONDS = 0.0005
# As many connections may wait to be accepted as uvicorn allows by default.
_BACKLOG = 2048


class Settings(Protocol):
    """What every service can be told."""

    @property
    def bundle(self) -> Path: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def grace_seconds(self) -> int: ...
    @property
    def log_level(self) -> str: ...


def run(settings: Settings, create_app: Callable[[SpanModel], FastAPI]) -> None:
    """Load the bundle, serve the application around it, and return when told to stop.

    Raises:
        SystemExit: it cannot start, and why, in one line; or it has ended, with code 0.
    """
    logs.configure(settings.log_level)
    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(model_threads(settings.threads, cores=usable_cores()))
    with environment.starting():
        model = load_bundle(settings.bundle, device=settings.device)
        app = create_app(model)
    listening = listen(settings.host, settings.port)
    _log.info("serving", extra=_started(model, listening[0]))
    _serve(app, listening, grace_seconds=settings.grace_seconds)


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of `host`.

    Raises:
        SystemExit: the port is taken, or this machine has no such address.
    """
    listening: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            # Port 0 is chosen once, for the first address.
            chosen = listening[0].getsockname()[1] if listening else port
            listening.append(
                socket.create_server((address[0], chosen), family=family, backlog=_BACKLOG)
            )
    except OSError as error:
        for each in listening:
            each.close()
        why = (
            "the port is taken; stop what listens there, or choose another in the settings"
            if error.errno == errno.EADDRINUSE
            else error.strerror
        )
        raise SystemExit(f"cannot start: cannot listen on {host} port {port}: {why}") from error
    return listening


def _serve(app: FastAPI, listening: list[socket.socket], *, grace_seconds: int) -> None:
    """Serve until told to stop; requests under way get `grace_seconds` to end."""
    # The server raises the signal that stopped it once more when everything is shut down; the
    # default answer to that would be to die of it.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _leave)
    config = uvicorn.Config(
        app,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        log_config=None,
        access_log=False,
        # Nothing here asks who sent a request; finding out costs every one.
        proxy_headers=False,
        timeout_graceful_shutdown=grace_seconds,
    )
    # All that is imported and built before the first request is here now.
    config.load()
    freeze_heap()
    server = uvicorn.Server(config)
    server.run(sockets=listening)
    if not server.started:
        raise SystemExit("cannot start: the application did not come up; the log above says why")


def freeze_heap() -> None:
    """Take everything there is now out of the garbage collector's rounds: model, libraries and
    application stay for as long as the process, and looking through them halts every thread of it
    for a third of a second.
    """
    gc.collect()
    gc.freeze()


def _started(model: SpanModel, listening: socket.socket) -> dict[str, object]:
    """What the first line of a service's log tells of it."""
    manifest, (host, port) = model.manifest, listening.getsockname()[:2]
    told: dict[str, object] = {
        "address": f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
        "span": [model.span.start, model.span.stop],
        "depth": model.span.depth,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
    }
    if manifest is not None:
        told["model"] = manifest.model
        told["fingerprint"] = manifest.fingerprint[:16]
        told["compute_format"] = manifest.compute_format
    return told


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    sys.exit(0)
