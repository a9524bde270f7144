"""What an emulated network really does: round trip and bulk rate, measured through the proxy.

The measuring ends are a client and an echo in this process; the proxy between them is the one the
benchmark uses. It knows no services.
"""

import asyncio
import statistics
from dataclasses import dataclass

from benchmarks.network.path import MEGABIT

PINGS = 30
# A bulk transfer long enough for a rate, short enough for 5 Mbit/s.
BULK_SECONDS = 0.5
UNLIMITED_BULK = 32 * 1024**2
# A machine that is busy with something else only ever makes a transfer slower: the fastest of these
# is the network's, and one as fast as asked needs no other.
TRANSFERS = 4
AS_ASKED = 0.95


@dataclass(frozen=True, slots=True)
class Measured:
    """A network as it is: median round trip of one byte, and rates of its fastest transfer."""

    rtt_ms: float
    mbit_up: float
    mbit_down: float


class Far:
    """The far end: answers `e` with one byte, swallows `u<size>` bytes, pours out `d<size>`."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Obey one connection until it ends."""
        try:
            while command := await reader.readline():
                kind, size = command[:1], int(command[1:].strip() or 0)
                if kind == b"u":
                    await _swallow(reader, size)
                writer.write(bytes(size) if kind == b"d" else b".")
                await writer.drain()
        finally:
            writer.close()


async def _swallow(reader: asyncio.StreamReader, size: int) -> None:
    left = size
    while left:
        chunk = await reader.read(min(left, 1024**2))
        if not chunk:
            raise ConnectionError("the other end left within a transfer")
        left -= len(chunk)


async def round_trip(port: int, *, pings: int = PINGS) -> float:
    """Median seconds of a one-byte echo through `port`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop, seen = asyncio.get_running_loop(), []
    try:
        for _ in range(pings):
            began = loop.time()
            writer.write(b"e\n")
            await reader.readexactly(1)
            seen.append(loop.time() - began)
    finally:
        writer.close()
    return statistics.median(seen)


async def measure(port: int, *, mbit_up: float | None, mbit_down: float | None) -> Measured:
    """Measure the network behind `port`; the asked rates only choose the size of the transfer."""
    rtt = await round_trip(port)
    up = await _rate(port, b"u", mbit_up, rtt)
    down = await _rate(port, b"d", mbit_down, rtt)
    return Measured(rtt * 1e3, up, down)


async def _rate(port: int, kind: bytes, mbit: float | None, rtt: float) -> float:
    best = 0.0
    for _ in range(TRANSFERS):
        best = max(best, await _bulk(port, kind, mbit, rtt))
        if best >= AS_ASKED * (mbit or 0.0):
            break
    return best


async def _bulk(port: int, kind: bytes, mbit: float | None, rtt: float) -> float:
    """Mbit/s of one transfer, the round trip of asking taken off."""
    size = int(mbit * MEGABIT * BULK_SECONDS) if mbit else UNLIMITED_BULK
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop = asyncio.get_running_loop()
    try:
        writer.write(b"e\n")  # the handshake is over when this comes back
        await reader.readexactly(1)
        began = loop.time()
        writer.write(kind + str(size).encode() + b"\n")
        if kind == b"u":
            writer.write(bytes(size))
            await reader.readexactly(1)
        else:
            await _swallow(reader, size)
        took = loop.time() - began - rtt
    finally:
        writer.close()
    return size / MEGABIT / took
