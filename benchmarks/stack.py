"""Cloud, network and edges as processes, each on its core: what a set-up of the benchmark runs on.

It starts and stops them, shapes the network and reads what went over it; it does not know what is
asked of the edges.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.network.calibrate import Measured, measure, round_trip
from benchmarks.network.path import Shape
from cli.errors import CommandError
from cli.processes import HOST, Service, free_ports, stop, wait_ready

READY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Where each side computes. The user's client and the network share the edge's core."""

    edge: int
    cloud: int

    @classmethod
    def of_this_machine(cls, usable: set[int]) -> "Cores":
        """The first two cores there are, or the same one twice where there is only one."""
        first, *others = sorted(usable)
        return cls(first, others[0] if others else first)


@dataclass(slots=True)
class Network:
    """The proxy as a process, over its control socket."""

    control: socket.socket
    proxy_port: int
    echo_port: int
    rtt_seconds: float = 0.0
    _own_seconds: float = 0.0

    def calibrate(self) -> None:
        """Measure what a round trip through the proxy itself takes."""
        self._tell({"own_seconds": 0.0, "shape": asdict(Shape())})
        self._own_seconds = asyncio.run(round_trip(self.echo_port, pings=100))

    def emulate(self, shape: Shape) -> Measured:
        """Be this network from now on; returns what it was measured to be.

        What the proxy takes is taken off the delay, and once more what waits overshoot by, which
        shows only where there is a delay.
        """
        self.rtt_seconds = shape.rtt_ms / 1e3
        measured = self._shaped(shape, self._own_seconds)
        over = measured.rtt_ms - shape.rtt_ms
        if shape.rtt_ms == 0 or over <= 0:
            return measured
        return self._shaped(shape, self._own_seconds + over / 1e3)

    def _shaped(self, shape: Shape, own_seconds: float) -> Measured:
        self._tell({"own_seconds": own_seconds, "shape": asdict(shape)})
        return asyncio.run(
            measure(self.echo_port, mbit_up=shape.mbit_up, mbit_down=shape.mbit_down)
        )

    def carried(self) -> tuple[int, int]:
        """Bytes towards the cloud and back so far."""
        told = self._tell({})
        return int(told["up"]), int(told["down"])

    def _tell(self, message: Mapping[str, object]) -> dict[str, Any]:
        self.control.sendall(json.dumps(message).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            part = self.control.recv(4096)
            if not part:
                raise CommandError("the emulated network has ended")
            answer += part
        told: dict[str, Any] = json.loads(answer)
        if "error" in told:
            raise CommandError(f"the emulated network refuses: {told['error']}")
        return told


@dataclass(frozen=True, slots=True)
class Stack:
    """A running set-up: `edges` maps the name of an edge to its URL."""

    network: Network
    cloud_url: str
    edges: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EdgeKind:
    """An edge to start: its bundle, and whether it sends the whole prefix every time."""

    name: str
    bundle: Path
    resend: bool = False


@contextmanager
def stack(
    cloud_bundle: Path, edges: list[EdgeKind], *, cores: Cores, paced: bool, logs: Path
) -> Iterator[Stack]:
    """Start everything; all is stopped at the end of the block, whatever happens.

    Raises:
        CommandError: something did not come up; the end of its log is shown.
    """
    cloud_port, *edge_ports = free_ports(1 + len(edges))
    running: list[Service] = []
    extra = ["--paced"] if paced else []
    with ExitStack() as leaving:
        leaving.callback(stop, running)
        environment = _environment("CLOUD", cloud_bundle, cloud_port)
        running.append(_start("cloud", ["cloud", *extra], environment, cores.cloud, logs))
        network = leaving.enter_context(_network(cloud_port, cores.edge))
        for kind, port in zip(edges, edge_ports, strict=True):
            environment = _environment("EDGE", kind.bundle, port)
            environment["TANDEM_EDGE_CLOUD_URL"] = f"http://{HOST}:{network.proxy_port}"
            arguments = ["edge", *extra, *(["--resend"] if kind.resend else [])]
            running.append(_start(kind.name, arguments, environment, cores.edge, logs))
        cloud_url = f"http://{HOST}:{cloud_port}"
        wait_ready(running[0], cloud_url, seconds=READY_SECONDS)
        urls = {}
        for kind, service, port in zip(edges, running[1:], edge_ports, strict=True):
            urls[kind.name] = f"http://{HOST}:{port}"
            wait_ready(service, urls[kind.name], seconds=READY_SECONDS, cloud="reachable")
        network.calibrate()
        yield Stack(network, cloud_url, urls)


def _start(
    name: str, arguments: list[str], environment: Mapping[str, str], core: int, logs: Path
) -> Service:
    command = [sys.executable, "-m", "benchmarks.service", *arguments, "--core", str(core)]
    log = logs / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**_clean(), **environment}, stdout=output, stderr=subprocess.STDOUT
        )
    return Service(name, process, log)


def _environment(side: str, bundle: Path, port: int) -> dict[str, str]:
    return {
        f"TANDEM_{side}_BUNDLE": str(bundle),
        f"TANDEM_{side}_PORT": str(port),
        f"TANDEM_{side}_THREADS": "1",
        f"TANDEM_{side}_LOG_LEVEL": "WARNING",
        "OMP_NUM_THREADS": "1",
    }


def _clean() -> dict[str, str]:
    """This environment without settings of the services: a benchmark runs with its own."""
    return {key: value for key, value in os.environ.items() if not key.startswith("TANDEM_")}


@contextmanager
def _network(cloud_port: int, core: int) -> Iterator[Network]:
    command = [sys.executable, "-m", "benchmarks.network", f"{HOST}:{cloud_port}"]
    command = [*command, "--core", str(core)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        with process.stdout as told:
            ports = json.loads(told.readline() or b"{}")
        if not ports:
            raise CommandError("the emulated network did not start")
        with socket.create_connection((HOST, ports["control"])) as control:
            yield Network(control, ports["proxy"], ports["echo"])
    finally:
        process.terminate()
        process.wait()


def contexts_held(cloud_url: str) -> int:
    """Sessions the cloud still holds."""
    (held,) = _metrics(cloud_url, "tandem_contexts")
    return held


def message_bytes(cloud_url: str) -> tuple[int, int]:
    """Bytes of message bodies the cloud has taken in and given out so far."""
    up, down = _metrics(cloud_url, "tandem_uplink_bytes_total", "tandem_downlink_bytes_total")
    return up, down


def _metrics(cloud_url: str, *names: str) -> list[int]:
    """The sum of each metric over its labels, of one scrape."""
    text = httpx.get(f"{cloud_url}/metrics", timeout=10.0, trust_env=False).raise_for_status().text
    found = []
    for name in names:
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        if not lines:
            raise CommandError(f"the cloud has no metric {name}")
        found.append(int(sum(float(line.rpartition(" ")[2]) for line in lines)))
    return found


def cores_here() -> Cores:
    """The cores this process may use, one for each side."""
    return Cores.of_this_machine(os.sched_getaffinity(0))
