"""Connections of the fault proxy: the edge's and its own, and how they end."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.faults.toxics import Shape
from tests.support.services import free_port

BROKEN = (OSError, asyncio.IncompleteReadError)
_RESET = struct.pack("ii", 1, 0)


class Broken(Exception):
    """A connection ends here, by a reset or by a close."""

    def __init__(self, reset: bool = True) -> None:
        super().__init__("cut")
        self.reset = reset


@dataclass(slots=True, eq=False)
class Line:
    """One connection of the edge, and the proxy's own to the replica behind it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: "tuple[asyncio.StreamReader, asyncio.StreamWriter] | None" = None

    def end(self, *, reset: bool) -> None:
        """End both, as a crashed machine's kernel does or as a process that leaves."""
        for writer in (self.writer, self.upstream[1] if self.upstream else None):
            if writer is not None:
                end(writer, reset=reset)


@dataclass(slots=True)
class Port:
    """The way to one replica; it refuses connections while it has no `listener`, and says nothing
    while it is `parted`.
    """

    number: int
    upstream: int
    port: int = field(default_factory=free_port)
    shape: Shape = field(default_factory=Shape)
    parted: bool = False
    lines: set[Line] = field(default_factory=set)
    listener: socket.socket | None = None

    @property
    def url(self) -> str:
        """What an edge is given for this replica."""
        return f"http://127.0.0.1:{self.port}"


async def unless_gone(work: Coroutine[Any, Any, None], hangup: Awaitable[object]) -> None:
    """Do the work, or leave it where the edge has hung up first.

    Raises:
        Broken: it has.
    """
    task = asyncio.create_task(work)
    gone = asyncio.ensure_future(hangup)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and gone.done() and gone.result() is None:
            raise Broken
        await task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Broken, *BROKEN):
            await task


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a port of this machine."""
    return await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)


def end(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """End a connection."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if reset and sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
    else:
        writer.close()
