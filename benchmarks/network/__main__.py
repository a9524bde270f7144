"""`python -m benchmarks.network HOST:PORT`: the proxy as a process, told what to be over a socket.

Prints one JSON line with its ports: `proxy` forwards to the cloud, `echo` through the same network
to a far end for calibration, `control` takes one JSON object a line (`{"shape": {...}}` or
`{"own_seconds": s}` or `{}`) and answers with the byte counts.
"""

import asyncio
import json
import os
import selectors
import signal
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from benchmarks.network.calibrate import Far
from benchmarks.network.path import Shape
from benchmarks.network.proxy import Proxy


def main(
    target: str,
    *,
    core: Annotated[int | None, typer.Option(help="CPU to stay on.")] = None,
) -> None:
    """Forward to TARGET (host:port) until SIGTERM."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"{target!r} is not host:port")
    # epoll rounds waits up to a millisecond, a third of the shortest round trip; select does not.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_serve(host, int(port)))


async def _serve(host: str, port: int) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    far = await asyncio.start_server(Far().serve, "127.0.0.1", 0)
    echo_port = far.sockets[0].getsockname()[1]
    async with far, Proxy(host, port) as proxy, Proxy("127.0.0.1", echo_port) as echo:

        async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(json.dumps(_obeyed(line, proxy, echo)).encode() + b"\n")
                await writer.drain()
            writer.close()

        control = await asyncio.start_server(obey, "127.0.0.1", 0)
        async with control:
            ports = {
                "proxy": proxy.address,
                "echo": echo.address,
                "control": control.sockets[0].getsockname()[1],
            }
            sys.stdout.write(json.dumps(ports) + "\n")
            sys.stdout.flush()
            await stopped.wait()


def _obeyed(line: bytes, proxy: Proxy, echo: Proxy) -> dict[str, object]:
    """The byte counts after doing as told, or what was wrong with it."""
    try:
        _apply(json.loads(line), proxy, echo)
    except (ValueError, TypeError) as error:
        return {"error": str(error)}
    return _counts(proxy)


def _apply(asked: dict[str, object], *proxies: Proxy) -> None:
    for proxy in proxies:
        if isinstance(own := asked.get("own_seconds"), int | float):
            proxy.own_seconds = float(own)
        if isinstance(shape := asked.get("shape"), dict):
            proxy.reshape(Shape(**shape))


def _counts(proxy: Proxy) -> dict[str, object]:
    return {"up": proxy.up.nbytes, "down": proxy.down.nbytes, "shape": asdict(proxy.shape)}


if __name__ == "__main__":
    typer.run(main)
