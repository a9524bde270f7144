"""Both services as real processes on free ports of this machine.

A process's log goes to a file that is shown when a test fails. Who stops one expects exit code 0.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from tests.support.apps import PATIENCE
from tests.support.reference import bundles

ROOT = Path(__file__).parents[2]


_given: set[int] = set()


def free_port() -> int:
    """A TCP port nobody listens on, given to nobody before, and none of those the system gives to
    outgoing connections (Linux): who is started again on it finds it free.
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    every = range(10_000, 1 << 16)
    ports = [port for port in every if not low <= port <= high] or list(every)
    while True:
        port = secrets.choice(ports)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def hears(pid: int, number: signal.Signals) -> bool:
    """Whether a process has an answer of its own to a signal (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


class Process(Protocol):
    """The part of `subprocess.Popen` that is used here."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the exit code."""

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""

    def kill(self) -> None:
        """End it at once."""


class Launch(Protocol):
    """A way to start the process of a service."""

    def __call__(self, role: str, environment: Mapping[str, str], log: Path) -> Process:
        """Start it with this environment; what it says goes to the end of the log."""


def launch(role: str, environment: Mapping[str, str], log: Path) -> Process:
    """Start a service as `python -m services.<role>`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", f"services.{role}"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


@dataclass(slots=True)
class Service:
    """One service: `cloud` or `edge`, its settings without their prefix, and its process."""

    role: str
    log: Path
    settings: Mapping[str, str]
    port: int = field(default_factory=free_port)
    launch: Launch = launch
    _process: Process | None = None

    @property
    def url(self) -> str:
        """Its base URL, the same after a restart."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process; `wait_until_ready` follows."""
        prefix = f"TANDEM_{self.role.upper()}_"
        given = {"bundle": str(getattr(bundles(), self.role)), "port": str(self.port)}
        given |= {"threads": "1", **self.settings}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
        environment["PYTHONUNBUFFERED"] = "1"
        environment |= {f"{prefix}{name}".upper(): value for name, value in given.items()}
        self._process = self.launch(self.role, environment, self.log)

    def wait_until_ready(self, cloud: str | None = None, seconds: float = PATIENCE) -> None:
        """Wait for `/readyz`; for an edge, until it says this of its cloud."""
        deadline = time.monotonic() + seconds
        while not self._is_ready(cloud):
            assert self._process is not None
            assert self._process.poll() is None, f"{self.role} ended:\n{self.tail()}"
            assert time.monotonic() < deadline, f"{self.role} is not ready:\n{self.tail()}"
            time.sleep(0.05)

    def kill(self) -> None:
        """End the process as a crash or a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, seconds: float = PATIENCE) -> int:
        """Send SIGTERM and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        self.tell(signal.SIGTERM)
        return self.wait(seconds)

    def tell(self, number: signal.Signals) -> None:
        """Send a signal and go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        assert self._process is not None
        return self._process.wait(seconds)

    def abandon(self) -> None:
        """End the process whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def hears(self, number: signal.Signals) -> bool:
        """Whether it has an answer of its own to a signal (Linux)."""
        assert self._process is not None
        return hears(self._process.pid, number)

    def resident_bytes(self) -> int:
        """Memory it holds (Linux)."""
        assert self._process is not None
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""

    def metrics(self) -> str:
        """What it exposes at `/metrics`."""
        return httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text

    def _is_ready(self, cloud: str | None) -> bool:
        try:
            ready = httpx.get(f"{self.url}/readyz", timeout=PATIENCE)
        except httpx.TransportError:
            return False
        body: dict[str, Any] = ready.json()
        return ready.status_code == 200 and (cloud is None or body["cloud"] == cloud)


@dataclass(frozen=True, slots=True)
class Services:
    """A cloud and the edge in front of it."""

    cloud: Service
    edge: Service

    def start(self, seconds: float = PATIENCE) -> None:
        """Start both at once and wait until the edge sees the cloud."""
        self.cloud.start()
        self.edge.start()
        self.cloud.wait_until_ready(seconds=seconds)
        self.edge.wait_until_ready("reachable", seconds)

    def tails(self) -> list[tuple[str, str]]:
        """Titles and ends of both logs."""
        return [(f"{s.role} log", s.tail()) for s in (self.cloud, self.edge)]


def new_services(folder: Path, **edge_settings: str) -> Services:
    """A pair that is not started yet, with its logs in `folder`; no audits unless told to."""
    cloud = Service("cloud", folder / "cloud.log", {})
    edge = Service(
        "edge", folder / "edge.log", {"cloud_url": cloud.url, "audit_share": "0", **edge_settings}
    )
    return Services(cloud, edge)
