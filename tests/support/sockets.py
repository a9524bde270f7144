"""Serves an ASGI application on a real socket from a thread of this process."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from shared.runtime.lifecycle import Lifecycle
from shared.web.connections import Connections, Limits
from shared.web.guarded import GuardedProtocol
from shared.web.serving import Server
from shared.web.tls import Renewed
from tests.support.apps import PATIENCE


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve `app`, lifespan included, and give its base URL."""
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    with _running(uvicorn.Server(config)) as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def guarded(app: ASGIApp, tls: Renewed | None, limits: Limits) -> Iterator[int]:
    """Serve `app` as the services are served, and give its port."""
    connections = Connections(limits, time.monotonic)
    config = uvicorn.Config(
        app,
        http=cast(Any, partial(GuardedProtocol, connections=connections)),
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    with _running(Server(config, Lifecycle(), connections, tls)) as port:
        yield port
        deadline = time.monotonic() + PATIENCE
        while len(connections):
            assert time.monotonic() < deadline, "connections are left"
            time.sleep(0.01)


@contextmanager
def _running(server: uvicorn.Server) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
