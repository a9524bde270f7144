"""`python -m benchmarks.network HOST:PORT...`: the proxy as a process, told what to be over a
socket.

Prints one JSON line with its ports: `proxies` forward to each target, `echo` through the same
network to a far end for calibration, `control` takes one JSON object a line (`{"shape": {...}}` or
`{"own_seconds": s}` or `{}`) and answers with the byte counts. Each target has bandwidth of its
own.
"""

import asyncio
import json
import os
import selectors
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.network.calibrate import Far
from benchmarks.network.path import Shape
from benchmarks.network.proxy import Crossing, Proxy
from benchmarks.notes import Notes


def main(
    targets: list[str],
    *,
    core: Annotated[int | None, typer.Option(help="CPU to stay on.")] = None,
    notes: Annotated[Path | None, typer.Option(help="File that what crosses is noted in.")] = None,
) -> None:
    """Forward to TARGETS (host:port) until SIGTERM."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    book = Notes(notes) if notes else None

    def note(crossing: Crossing) -> None:
        if book is not None:
            book.add(**asdict(crossing))

    proxies = [Proxy(*_address(target), note=note) for target in targets]
    # epoll rounds waits up to a millisecond, a third of the shortest round trip; select does not.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_serve(proxies))


def _address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"{target!r} is not host:port")
    return host, int(port)


async def _serve(proxies: list[Proxy]) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    far = await asyncio.start_server(Far().serve, "127.0.0.1", 0)
    echo_port = far.sockets[0].getsockname()[1]
    async with far, AsyncExitStack() as leaving, Proxy("127.0.0.1", echo_port) as echo:
        for proxy in proxies:
            await leaving.enter_async_context(proxy)

        async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(json.dumps(_obeyed(line, proxies, echo)).encode() + b"\n")
                await writer.drain()
            writer.close()

        control = await asyncio.start_server(obey, "127.0.0.1", 0)
        async with control:
            ports = {
                "proxies": [proxy.address for proxy in proxies],
                "echo": echo.address,
                "control": control.sockets[0].getsockname()[1],
            }
            sys.stdout.write(json.dumps(ports) + "\n")
            sys.stdout.flush()
            await stopped.wait()


def _obeyed(line: bytes, proxies: list[Proxy], echo: Proxy) -> dict[str, object]:
    """The byte counts after doing as told, or what was wrong with it."""
    try:
        _apply(json.loads(line), *proxies, echo)
    except (ValueError, TypeError) as error:
        return {"error": str(error)}
    return _counts(proxies, echo)


def _apply(asked: dict[str, object], *proxies: Proxy) -> None:
    for proxy in proxies:
        if isinstance(own := asked.get("own_seconds"), int | float):
            proxy.own_seconds = float(own)
        if isinstance(shape := asked.get("shape"), dict):
            proxy.reshape(Shape(**shape))


def _counts(proxies: list[Proxy], echo: Proxy) -> dict[str, object]:
    up, down = (sum(proxy.up.nbytes for proxy in proxies), sum(p.down.nbytes for p in proxies))
    return {"up": up, "down": down, "shape": asdict(echo.shape)}


if __name__ == "__main__":
    typer.run(main)
