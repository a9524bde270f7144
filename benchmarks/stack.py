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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.network.calibrate import Measured, measure, round_trip
from benchmarks.network.path import Shape
from benchmarks.paced.device import Device
from cli.errors import CommandError
from cli.processes import HOST, Service, free_ports, stop, wait_ready

# A round trip is as asked within this share of it, or after so many corrections left as it is.
_CLOSE = 0.02
_CORRECTIONS = 4


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
    """The proxy as a process, over its control socket; it has a port for each of its targets."""

    control: socket.socket
    proxy_ports: Sequence[int]
    echo_port: int
    rtt_seconds: float = 0.0
    _own_seconds: float = 0.0

    def calibrate(self) -> None:
        """Measure what a round trip through the proxy itself takes."""
        self._tell({"own_seconds": 0.0, "shape": asdict(Shape())})
        self._own_seconds = asyncio.run(round_trip(self.echo_port, pings=100))

    def emulate(self, shape: Shape) -> Measured:
        """Be this network from now on; returns what it was measured to be.

        What the proxy takes is taken off the delay, and what waits overshoot by, which shows only
        where there is a delay; a machine that was busy with something else is measured again.
        """
        self.rtt_seconds = shape.rtt_ms / 1e3
        own_seconds = self._own_seconds
        measured = self._shaped(shape, own_seconds)
        for _ in range(_CORRECTIONS):
            over_ms = measured.rtt_ms - shape.rtt_ms
            if abs(over_ms) <= _CLOSE * shape.rtt_ms or shape.rtt_ms == 0:
                break
            own_seconds += over_ms / 1e3
            measured = self._shaped(shape, own_seconds)
        return measured

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
class EdgeKind:
    """An edge to start: its bundle, settings (without TANDEM_EDGE_, in lower case), whether it
    sends the whole prefix every time, and whether it runs in the cloud, on the cloud's device: then
    the network lies between it and its user.
    """

    name: str
    bundle: Path
    resend: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    in_cloud: bool = False


@dataclass(frozen=True, slots=True)
class Stack:
    """A running set-up: `edges` maps the name of an edge to its URL, as its user reaches it.

    Args:
        in_cloud: names of the edges that run in the cloud.
        device: what the cloud and these compute on; None where steps are not paced.
    """

    network: Network
    cloud_url: str
    edges: Mapping[str, str]
    in_cloud: frozenset[str] = frozenset()
    device: Device | None = None


@contextmanager
def stack(
    cloud_bundle: Path,
    edges: Sequence[EdgeKind],
    *,
    cores: Cores,
    paced: bool,
    logs: Path,
    notes: bool = False,
) -> Iterator[Stack]:
    """Start everything; all is stopped at the end of the block, whatever happens.

    Args:
        logs: folder of each process's log, and of its notes (`NAME.jsonl`, the proxy's
            `network.jsonl`) where there are to be any.

    Raises:
        CommandError: something did not come up; the end of its log is shown.
    """
    start = _Starting(cores, logs, paced=paced, notes=notes)
    cloud_port, *edge_ports = free_ports(1 + len(edges))
    far = {kind.name: port for kind, port in zip(edges, edge_ports, strict=True) if kind.in_cloud}
    with ExitStack() as leaving:
        leaving.callback(stop, start.running)
        cloud = start.cloud(cloud_bundle, cloud_port)
        network = leaving.enter_context(start.network([cloud_port, *far.values()]))
        cloud_url, proxied = _url(cloud_port), _url(network.proxy_ports[0])
        services = [
            start.edge(kind, port, cloud_url if kind.in_cloud else proxied)
            for kind, port in zip(edges, edge_ports, strict=True)
        ]
        wait_ready(cloud, cloud_url)
        urls = {kind.name: _url(port) for kind, port in zip(edges, edge_ports, strict=True)}
        for name, service in zip(urls, services, strict=True):
            wait_ready(service, urls[name], cloud="reachable")
        urls |= {n: _url(port) for n, port in zip(far, network.proxy_ports[1:], strict=True)}
        network.calibrate()
        device = Device(start.device) if paced else None
        yield Stack(network, cloud_url, urls, frozenset(far), device)


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


@dataclass(frozen=True, slots=True)
class _Starting:
    """Starts processes; `running` are the services so far."""

    cores: Cores
    logs: Path
    paced: bool
    notes: bool
    running: list[Service] = field(default_factory=list)

    @property
    def device(self) -> Path:
        """The cloud's device."""
        return self.logs / "device"

    def cloud(self, bundle: Path, port: int) -> Service:
        environment = _environment("CLOUD", bundle, port)
        return self._service("cloud", ["cloud"], environment, in_cloud=True)

    def edge(self, kind: EdgeKind, port: int, cloud_url: str) -> Service:
        environment = _environment("EDGE", kind.bundle, port)
        environment["TANDEM_EDGE_CLOUD_URL"] = cloud_url
        for key, value in kind.settings.items():
            environment[f"TANDEM_EDGE_{key.upper()}"] = value
        arguments = ["edge", *(["--resend"] if kind.resend else [])]
        return self._service(kind.name, arguments, environment, in_cloud=kind.in_cloud)

    def _service(
        self, name: str, arguments: list[str], environment: Mapping[str, str], *, in_cloud: bool
    ) -> Service:
        core = self.cores.cloud if in_cloud else self.cores.edge
        command = [sys.executable, "-m", "benchmarks.service", *arguments, "--core", str(core)]
        command += [*(["--paced"] if self.paced else []), *self._noting(name)]
        command += ["--device", str(self.device)] if in_cloud else []
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env={**_clean(), **environment}, stdout=output, stderr=subprocess.STDOUT
            )
        service = Service(name, process, log)
        self.running.append(service)
        return service

    def _noting(self, name: str) -> list[str]:
        return ["--notes", str(self.logs / f"{name}.jsonl")] if self.notes else []

    @contextmanager
    def network(self, ports: Sequence[int]) -> Iterator[Network]:
        """The proxy to each of `ports`."""
        command = [sys.executable, "-m", "benchmarks.network", *(f"{HOST}:{p}" for p in ports)]
        command += ["--core", str(self.cores.edge), *self._noting("network")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            with process.stdout as told:
                found = json.loads(told.readline() or b"{}")
            if not found:
                raise CommandError("the emulated network did not start")
            with socket.create_connection((HOST, found["control"])) as control:
                yield Network(control, found["proxies"], found["echo"])
        finally:
            process.terminate()
            process.wait()


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
