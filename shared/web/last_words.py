"""The end of a connection whose client may still be sending: what arrives at a closed connection
makes its client lose the answer, so the connection says no more and listens for a while.
"""

import socket
from contextlib import suppress
from typing import Any, Protocol


class Speaker(Protocol):
    """The connection."""

    transport: Any

    def linger(self) -> None:
        """Say no more."""


class LastWords:
    """The transport of an answer that is the last."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker

    def write(self, data: bytes) -> None:
        """Send a part of it."""
        self._speaker.transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return bool(self._speaker.transport.is_closing())

    def close(self) -> None:
        """It was the last part."""
        self._speaker.linger()


def notice_the_dead(transport: Any, seconds: float) -> None:
    """Have the kernel end a connection whose other side takes nothing in for so long: it holds more
    unsent bytes than `pause_writing` ever hears of.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):  # it has ended already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
