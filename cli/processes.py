"""Both services as child processes: started together, watched, stopped together.

It knows how a service is started (a module and its environment) and asked whether it is ready;
it does not know what the services do.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cli.errors import CommandError
from shared.runtime.cores import usable_cores

# Longer than a service's grace time by default, and what it needs besides.
# A service that ends instead is noticed at once; one that only loads is given time.
READY_SECONDS = 240.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.1
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start: where each side's bundle lies and where each side listens."""

    edge_bundle: Path
    cloud_bundle: Path
    edge_port: int
    cloud_port: int
    host: str = HOST

    @property
    def edge_url(self) -> str:
        return f"http://{self.host}:{self.edge_port}"

    @property
    def cloud_url(self) -> str:
        return f"http://{self.host}:{self.cloud_port}"


@dataclass(frozen=True, slots=True)
class Service:
    """A running child: `log` is the file its output goes to, None for our own terminal."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log, for a person who asks why."""
        if self.log is None:
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    @property
    def ending(self) -> str | None:
        """How it ended ("exited with code 3", "was ended by SIGKILL"), or None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"exited with code {code}"


@contextmanager
def running(plan: Plan, *, logs: Path | None = None) -> Iterator[tuple[Service, Service]]:
    """Start the cloud and the edge; both are stopped at the end of the block, whatever happens.

    Output goes to `logs`/<name>.log, or to this terminal where `logs` is None.
    """
    started: list[Service] = []
    try:
        started.append(start("cloud", _cloud_environment(plan), logs))
        started.append(start("edge", _edge_environment(plan), logs))
        yield started[0], started[1]
    finally:
        stop(started)


@contextmanager
def serving(bundles: Path) -> Iterator[Plan]:
    """Both services on `bundles`/edge and `bundles`/cloud, ready and in touch with each other; they
    leave their logs there, and are stopped at the end of the block.

    Raises:
        CommandError: one does not come up.
    """
    edge_port, cloud_port = free_ports(2)
    plan = Plan(bundles / "edge", bundles / "cloud", edge_port, cloud_port)
    with running(plan, logs=bundles) as (cloud, edge):
        wait_ready(cloud, plan.cloud_url)
        wait_ready(edge, plan.edge_url, cloud="reachable")
        yield plan


def _cloud_environment(plan: Plan) -> dict[str, str]:
    return {
        "TANDEM_CLOUD_BUNDLE": str(plan.cloud_bundle),
        "TANDEM_CLOUD_HOST": plan.host,
        "TANDEM_CLOUD_PORT": str(plan.cloud_port),
        "TANDEM_CLOUD_THREADS": str(_threads()),
    }


def _edge_environment(plan: Plan) -> dict[str, str]:
    return {
        "TANDEM_EDGE_BUNDLE": str(plan.edge_bundle),
        "TANDEM_EDGE_HOST": plan.host,
        "TANDEM_EDGE_PORT": str(plan.edge_port),
        "TANDEM_EDGE_CLOUD_URL": plan.cloud_url,
        "TANDEM_EDGE_THREADS": str(_threads()),
    }


def _threads() -> int:
    """Each side gets half of the cores there are: threads that wait for a core another side is
    using make a step many times slower, not a little.
    """
    return max(1, usable_cores() // 2)


def start(name: str, environment: Mapping[str, str], logs: Path | None) -> Service:
    """Start one service with settings from `environment`; its output goes as in `running`."""
    command = [sys.executable, "-m", f"services.{name}"]
    environment = {**os.environ, **environment}
    if logs is None:
        return Service(name, subprocess.Popen(command, env=environment), None)
    log = logs / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    return Service(name, process, log)


def stop(services: list[Service]) -> None:
    """Ask every service to stop, wait, and kill what has not stopped after STOP_SECONDS."""
    for service in services:
        service.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for service in services:
        try:
            service.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            service.process.kill()
            service.process.wait()


def wait_ready(
    service: Service, url: str, *, seconds: float = READY_SECONDS, cloud: str | None = None
) -> None:
    """Return once `GET url/readyz` answers 200 and, of an edge, says that its cloud is `cloud`.

    Raises:
        CommandError: the service ended, or was not ready in time (the end of its log is shown), or
            says that the cloud does not fit it.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if service.ending is not None:
            raise CommandError(f"the {service.name} {service.ending}\n{service.tail()}")
        try:
            response = httpx.get(f"{url}/readyz", timeout=5.0, trust_env=False)
        except httpx.TransportError:
            pass  # not listening yet
        else:
            if response.is_success and _says(response, cloud):
                return
        time.sleep(POLL_SECONDS)
    raise CommandError(f"the {service.name} was not ready in {seconds:.0f} s\n{service.tail()}")


def _says(response: httpx.Response, cloud: str | None) -> bool:
    if cloud is None:
        return True
    told = response.json()
    if told.get("cloud") == "unfit":
        raise CommandError(str(told.get("cloud_problem")))
    # One that lets nobody in without a key tells nothing of its cloud.
    return bool(told.get("cloud", cloud) == cloud)


def require_free(host: str, ports: Mapping[str, int]) -> None:
    """Refuse ports something listens on already, and one port for two; `ports` names each by the
    option that sets it.

    Raises:
        CommandError: naming the port, and the option that chooses another.
    """
    if len(set(ports.values())) < len(ports):
        raise CommandError(f"{' and '.join(ports)} are the same: each service needs its own port")
    for option, port in ports.items():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CommandError(f"cannot listen on {host} port {port}: {error}") from error
            raise CommandError(
                f"port {port} of {host} is taken: stop what listens there, or choose another "
                f"with {option}"
            ) from error


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nothing listens on now."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
