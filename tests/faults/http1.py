"""HTTP/1.1 as the two services speak it, read piece by piece: requests of announced length, answers
of announced length or in chunks. What is read can be sent on unchanged.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

MOST_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    path: str
    head: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer: its bytes on the wire, and what of the body they carry. The first one
    brings the head along.
    """

    status: int
    raw: bytes
    content: bytes


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request in full; None where the sender has closed instead."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_length(head) or 0)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Request(head.split(b" ", 2)[1].decode(), head, body)


async def pieces(reader: asyncio.StreamReader) -> AsyncGenerator[Piece]:
    """An answer, a piece for every chunk.

    Raises:
        asyncio.IncompleteReadError, ConnectionError: it broke off.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    length = _length(head)
    if b"transfer-encoding: chunked" not in head.lower():
        body = await reader.readexactly(length or 0)
        yield Piece(status, head + body, body)
        return
    before = head
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line, 16)
        rest = await reader.readexactly(size + 2)
        yield Piece(status, before + line + rest, rest[:size])
        before = b""
        if size == 0:
            return


def _length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return None
