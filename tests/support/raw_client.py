"""A client of raw bytes: what it sends is no request unless a test makes it one."""

import json
import re
import select
import socket
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

PATIENCE = 120.0
# In place of a piece: what follows is sent once there is an answer to what went before.
ANSWERED = b""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back, and how it ended."""

    answers: bytes
    closed: bool  # by the other side, before the patience was over
    seconds: float
    sent: int  # pieces, before it was

    @property
    def statuses(self) -> list[int]:
        """Of every answer, in order."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.answers)]

    @property
    def body(self) -> dict[str, Any]:
        """The last answer's, which is JSON."""
        found: dict[str, Any] = json.loads(self.answers.rpartition(b"\r\n\r\n")[2])
        return found


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection to this machine."""
    made = socket.socket()
    if receive_buffer is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.settimeout(PATIENCE)
    made.connect(("127.0.0.1", port))
    return made


def say(port: int, *pieces: bytes, pause: float = 0.01, patience: float = PATIENCE) -> Heard:
    """Send these, and listen, until the other side closes."""
    began, sent = time.monotonic(), 0
    heard = bytearray()
    with closing(connect(port)) as connection:
        closed = False
        for piece in pieces:
            if piece == ANSWERED:
                closed = not heard and _hear(connection, heard, patience)
                continue
            try:
                connection.sendall(piece)
            except OSError:
                break
            sent += 1
            time.sleep(pause)
            if closed := _hear(connection, heard, 0):
                break
        while not closed:
            left = began + patience - time.monotonic()
            if left <= 0:
                break
            closed = _hear(connection, heard, left)
    return Heard(bytes(heard), closed, time.monotonic() - began, sent)


def _hear(connection: socket.socket, heard: bytearray, seconds: float) -> bool:
    """Take in what comes first; true at the end."""
    looking = select.poll()  # which `select` cannot do beyond a thousand open files
    looking.register(connection, select.POLLIN)
    if not looking.poll(seconds * 1000):
        return False
    try:
        data = connection.recv(65536)
    except OSError:
        return True
    heard += data
    return not data


def closed_by_peer(connections: Sequence[socket.socket]) -> int:
    """How many of these the other side has closed; what they say is read."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            while connection.recv(65536):
                pass
            count += 1
        except BlockingIOError:
            pass
        except OSError:
            count += 1
    return count
