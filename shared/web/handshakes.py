"""A connection before its TLS stands. It has its place among the others from its first packet on,
and as long for its handshake as others for a head.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, Protocol, cast

from shared.web.connections import Connections
from shared.web.refusals import HANDSHAKE
from shared.web.tls import Renewed

_log = logging.getLogger(__name__)

# A client that does not take part in the end of TLS is cut off after so long.
_SHUTDOWN_SECONDS = 2.0


class Server(Protocol):
    """What uvicorn keeps of its server."""

    connections: set[Any]
    tasks: "set[asyncio.Task[None]]"


class Handshake(asyncio.Protocol):
    """Makes a TLS connection of a TCP connection and hands it on.

    Args:
        inner: makes the protocol to hand it on to; its place is taken already.
    """

    def __init__(
        self,
        tls: Renewed,
        connections: Connections,
        server: Server,
        inner: Callable[[], asyncio.Protocol],
    ) -> None:
        self._tls = tls
        self._connections = connections
        self._server = server
        self._inner = inner
        self._early: list[bytes] = []
        self._paused = False
        self._lost = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection stands."""
        self._transport = cast(asyncio.Transport, transport)
        # All of it is TLS's to read.
        self._transport.pause_reading()
        peer = transport.get_extra_info("peername")
        if self._connections.enter(self, str(peer[0]) if peer else "") is not None:
            self.abort()
            return
        self._connections.idle.pop(self, None)
        self._connections.heads[self] = self._connections.clock()
        self._server.connections.add(self)
        task = asyncio.get_running_loop().create_task(self._shake_hands())
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    def data_received(self, data: bytes) -> None:
        """Came with the handshake's last message: the protocol to read it is about to be there."""
        self._early.append(data)

    def pause_writing(self) -> None:
        """Nothing is written here."""

    def resume_writing(self) -> None:
        """Nothing is written here."""

    def connection_lost(self, error: Exception | None) -> None:
        """It ended before TLS stood."""
        self._lost = True
        self._leave()

    # What `Connections` and uvicorn call.

    def late_head(self) -> None:
        """It has taken too long."""
        self._connections.refused(HANDSHAKE)
        self.abort()

    def look_at_body(self) -> None:
        """It has none."""

    def close(self) -> None:
        """End."""
        self.abort()

    def shutdown(self) -> None:
        """The service ends."""
        self.abort()

    def abort(self) -> None:
        """End now."""
        self._leave()
        self._transport.abort()

    async def _shake_hands(self) -> None:
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport,
                self,
                self._tls.context(),
                server_side=True,
                ssl_handshake_timeout=self._connections.limits.head_seconds,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except (OSError, ssl.CertificateError, TimeoutError) as error:
            if not self._lost:
                self._connections.refused(HANDSHAKE)
            _log.debug("no TLS", extra={"reason": str(error)})
            self.abort()
            return
        if transport is None or self._lost or self not in self._server.connections:
            self.abort()
            return
        inner = self._inner()
        self._connections.succeed(self, cast(Any, inner))
        self._server.connections.discard(self)
        transport.set_protocol(inner)
        inner.connection_made(transport)
        for data in self._early:
            inner.data_received(data)

    def _leave(self) -> None:
        self._connections.leave(self)
        self._server.connections.discard(self)
