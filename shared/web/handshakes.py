"""Connections before their TLS stands. Each has its place among the others from its first packet
on, and as long for its handshake as others for a head.

Accepts connections itself: an event loop's server counts none before its handshake is over, and
keeps the context it began with.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from shared.web.connections import Connection, Connections
from shared.web.refusals import HANDSHAKE
from shared.web.tls import Renewed

_log = logging.getLogger(__name__)

# A client that does not take part in the end of TLS is cut off after so long.
_SHUTDOWN_SECONDS = 2.0
# Between tries where a connection cannot be accepted, for want of files or memory.
_PAUSE_SECONDS = 0.1
# Failed handshakes are logged at most so often: anybody can make them.
_TOLD_SECONDS = 1.0

# Makes the protocol of a connection that has taken its place as another object already.
Inner = Callable[[Connection], asyncio.Protocol]


class Handshakes:
    """Accepts connections and makes TLS of them, from the first `listen` until `close`."""

    def __init__(self, tls: Renewed, connections: Connections, inner: Inner) -> None:
        self.tls = tls
        self.connections = connections
        self._inner = inner
        self._tasks: set[asyncio.Task[None]] = set()
        self._told = 0.0

    def listen(self, listening: socket.socket) -> None:
        """Accept what comes to a socket."""
        listening.setblocking(False)
        self._start(self._accept(listening))

    def close(self) -> None:
        """Accept no more; handshakes under way end."""
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                _log.warning("cannot accept connections", extra={"reason": str(error)})
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            handshake = _Handshake(accepted)
            if self.connections.enter(handshake, str(address[0])) is not None:
                # There is no answering before TLS stands.
                handshake.abort()
                self.connections.leave(handshake)
                continue
            self.connections.idle.pop(handshake)
            self.connections.heads[handshake] = self.connections.clock()
            handshake.task = self._start(self._shake_hands(handshake, accepted))

    async def _shake_hands(self, handshake: "_Handshake", accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._inner(handshake),
                accepted,
                ssl=self.tls.context(),
                ssl_handshake_timeout=self.connections.limits.head_seconds,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except (OSError, ssl.CertificateError) as error:
            self.connections.refused(HANDSHAKE)
            self._tell(error)
        except asyncio.CancelledError:
            # Two clocks hold it to the same time, and the other one was first.
            if handshake.late:
                self.connections.refused(HANDSHAKE)
            raise
        finally:
            self.connections.leave(handshake)

    def _tell(self, error: Exception) -> None:
        now = self.connections.clock()
        if now - self._told >= _TOLD_SECONDS:
            self._told = now
            _log.info("a client's TLS did not come about", extra={"reason": str(error)})


class _Handshake:
    """One of them, as `Connections` sees it."""

    def __init__(self, accepted: socket.socket) -> None:
        self._accepted = accepted
        self.task: asyncio.Task[None] | None = None
        self.late = False

    def late_head(self) -> None:
        """It has taken too long."""
        self.late = True
        self.abort()

    def look_at_body(self) -> None:
        """It has none."""

    def close(self) -> None:
        """End."""
        self.abort()

    def abort(self) -> None:
        """End now."""
        if self.task is not None:
            self.task.cancel()
        else:
            self._accepted.close()
