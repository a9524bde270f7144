"""A service as a process's only work: from its settings to a bundle, an application and a socket,
until SIGTERM or SIGINT, then a graceful end (`shared.runtime.lifecycle`) with exit code 0.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

import torch
import uvicorn
from fastapi import FastAPI

from shared import environment, logs
from shared.model import SpanModel, load_bundle
from shared.runtime.cores import model_threads, usable_cores
from shared.runtime.lifecycle import LAST_SECONDS, Lifecycle
from shared.web.connections import KEEP_ALIVE_SECONDS, Connection, Connections, Limits, files_for
from shared.web.guarded import GuardedProtocol
from shared.web.handshakes import Handshakes
from shared.web.tls import Renewed, server_tls

_log = logging.getLogger(__name__)

# How long one thread of Python may keep the others waiting. By default 5 ms: the engine's thread
# needs the interpreter between any two operators, and the event loop has messages to pack.
SWITCH_SECONDS = 0.0005
# As many connections may wait to be accepted as uvicorn allows by default.
_BACKLOG = 2048
# Between looks at connections that owe something.
_SWEEP_SECONDS = 0.1
_CLOSE = (b"connection", b"close")


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
    def max_connections(self) -> int: ...
    @property
    def max_connections_per_address(self) -> int: ...
    @property
    def head_timeout_seconds(self) -> float: ...
    @property
    def body_timeout_seconds(self) -> float: ...
    @property
    def write_timeout_seconds(self) -> float: ...
    @property
    def tls_certificate_file(self) -> str: ...
    @property
    def tls_key_file(self) -> str: ...
    @property
    def tls_client_ca_file(self) -> str: ...
    @property
    def drain_seconds(self) -> int: ...
    @property
    def grace_seconds(self) -> int: ...
    @property
    def log_level(self) -> str: ...


def run(settings: Settings, create_app: Callable[[SpanModel, Lifecycle], FastAPI]) -> None:
    """Load the bundle, serve the application around it, and return when told to stop.

    Raises:
        SystemExit: it cannot start, and why, in one line; or it was told to stop meanwhile, with
            code 0.
    """
    logs.configure(settings.log_level)
    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(model_threads(settings.threads, cores=usable_cores()))
    with environment.starting():
        tls = _tls(settings)
        model = load_bundle(settings.bundle, device=settings.device)
        lifecycle = Lifecycle(settings.drain_seconds, settings.grace_seconds)
        app = create_app(model, lifecycle)
    connections = _connections(settings)
    if isinstance(app, FastAPI):  # and not something around it, which shows no metrics
        app.state.metrics.read_connections(connections)
    listening = listen(settings.host, settings.port)
    _log.info("serving", extra=_started(model, listening[0], "http" if tls is None else "https"))
    _serve(app, listening, lifecycle, connections, tls)


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


def _tls(settings: Settings) -> Renewed | None:
    files = settings.tls_certificate_file, settings.tls_key_file, settings.tls_client_ca_file
    try:
        return server_tls(*(Path(file) if file else None for file in files))
    except ValueError as error:
        raise SystemExit(f"cannot start: {error}") from error


def _connections(settings: Settings) -> Connections:
    most = files_for(settings.max_connections)
    if most < settings.max_connections:
        extra = {"max_connections": most, "asked_for": settings.max_connections}
        _log.warning("fewer connections than asked for: open files are limited", extra=extra)
    limits = Limits(
        most=most,
        most_per_address=settings.max_connections_per_address,
        head_seconds=settings.head_timeout_seconds,
        body_seconds=settings.body_timeout_seconds,
        write_seconds=settings.write_timeout_seconds,
    )
    return Connections(limits, time.monotonic)


def _serve(
    app: FastAPI,
    listening: list[socket.socket],
    lifecycle: Lifecycle,
    connections: Connections,
    tls: Renewed | None,
) -> None:
    """Serve until told to stop, and to the end of what is under way then."""
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _leave)
    config = uvicorn.Config(
        app,
        http=cast(Any, partial(GuardedProtocol, connections=connections)),
        # No route speaks WebSocket.
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        log_config=None,
        access_log=False,
        # Nothing here asks who sent a request; finding out costs every one.
        proxy_headers=False,
        timeout_graceful_shutdown=int(lifecycle.grace_seconds) + LAST_SECONDS,
    )
    # All that is imported and built before the first request is here now.
    config.load()
    freeze_heap()
    server = Server(config, lifecycle, connections, tls)
    server.run(sockets=listening)
    if not server.started:
        raise SystemExit("cannot start: the application did not come up; the log above says why")


class Server(uvicorn.Server):
    """Closes not when it is told to, but when its lifecycle says so."""

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        connections: Connections,
        tls: Renewed | None = None,
    ) -> None:
        super().__init__(config)
        self._handshakes = None if tls is None else Handshakes(tls, connections, self._protocol)
        self._lifecycle = lifecycle
        self._connections = connections
        self._told = False

    def _protocol(self, before: Connection) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        known = {"config": self.config, "server_state": self.server_state}
        protocol: asyncio.Protocol = make(**known, app_state=self.lifespan.state, before=before)
        return protocol

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bring the application up, then listen."""
        self._sweeping = asyncio.create_task(self._sweep())
        if self._handshakes is None:
            await super().startup(sockets)
            return
        await super().startup([])
        for listening in sockets or []:
            self._handshakes.listen(listening)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, then bring the application down."""
        if self._handshakes is not None:
            self._handshakes.close()
        await super().shutdown(sockets)
        self._sweeping.cancel()

    async def _sweep(self) -> None:
        """Look after connections, to the very end: the last ones keep the service from ending."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                self._connections.sweep()
            except Exception:
                # The others are to be looked after all the same.
                _log.exception("a connection could not be looked after")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Answer SIGTERM and SIGINT; a second one ends the process where it stands."""
        del sig, frame
        if not self._lifecycle.leave():
            os._exit(0)

    async def on_tick(self, counter: int) -> bool:
        """Look after the server, ten times a second; true when it shall close."""
        stop = await super().on_tick(counter)
        if self._lifecycle.draining:
            self._drain()
        return stop or self._lifecycle.closing

    def _drain(self) -> None:
        """Ask clients not to come back on the connections they have: those are about to close,
        and what is sent just then is lost.
        """
        if not self._told:
            self._told = True
            _log.info("draining", extra={"seconds": self._lifecycle.drain_seconds})
        headers = self.server_state.default_headers
        if _CLOSE not in headers:
            self.server_state.default_headers = [*headers, _CLOSE]


def freeze_heap() -> None:
    """Take everything there is now out of the garbage collector's rounds: model, libraries and
    application stay for as long as the process, and looking through them halts every thread of it
    for a third of a second.
    """
    gc.collect()
    gc.freeze()


def _started(model: SpanModel, listening: socket.socket, scheme: str) -> dict[str, object]:
    """What the first line of a service's log tells of it."""
    manifest, (host, port) = model.manifest, listening.getsockname()[:2]
    told: dict[str, object] = {
        "address": f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}",
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
