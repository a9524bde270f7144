"""Child processes: ready or dead is noticed, and stopping stops them."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.processes import HOST, Service, free_ports, require_free, stop, wait_ready

Start = Callable[[str], Service]

SERVES = """
import http.server, sys, time
class Ready(http.server.BaseHTTPRequestHandler):
    began = time.monotonic()
    def do_GET(self):
        ready = self.path == "/readyz" and time.monotonic() - self.began > 0.3
        self.send_response(200 if ready else 503); self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), Ready).serve_forever()
"""

TELLS = """
import http.server, json
class Told(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({told}).encode())
http.server.HTTPServer(("127.0.0.1", {port}), Told).serve_forever()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a Python program as a service; all are stopped at the end."""
    services: list[Service] = []

    def start(program: str) -> Service:
        log = tmp_path / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                (sys.executable, "-c", program), stdout=output, stderr=subprocess.STDOUT
            )
        services.append(Service("edge", process, log))
        return services[-1]

    yield start
    stop(services)


def test_waiting_ends_when_the_service_says_it_is_ready(start: Start) -> None:
    (port,) = free_ports(1)
    began = time.monotonic()
    wait_ready(start(SERVES.format(port=port)), f"http://{HOST}:{port}", seconds=20)
    assert time.monotonic() - began > 0.3


def test_a_service_that_dies_is_reported_at_once_with_the_end_of_its_log(start: Start) -> None:
    (port,) = free_ports(1)
    service = start("import sys; print('no such bundle'); sys.exit(3)")
    with pytest.raises(CommandError, match=r"the edge exited with code 3\nno such bundle"):
        wait_ready(service, f"http://{HOST}:{port}", seconds=20)


def test_a_service_that_never_gets_ready_is_given_up(start: Start) -> None:
    (port,) = free_ports(1)
    with pytest.raises(CommandError, match="not ready in 0 s"):
        wait_ready(start("import time; time.sleep(60)"), f"http://{HOST}:{port}", seconds=0.3)


def test_stopping_leaves_no_process_behind(start: Start) -> None:
    services = [start("import time; time.sleep(60)") for _ in range(2)]
    assert [service.ending for service in services] == [None, None]
    stop(services)
    assert [service.ending for service in services] == ["was ended by SIGTERM"] * 2


def test_ports_handed_out_together_differ() -> None:
    assert len(set(free_ports(5))) == 5


def test_an_edge_is_waited_for_until_it_has_found_its_cloud(start: Start) -> None:
    found, alone = free_ports(2)
    service = start(TELLS.format(port=found, told={"cloud": "reachable"}))
    wait_ready(service, f"http://{HOST}:{found}", seconds=20, cloud="reachable")
    (quiet,) = free_ports(1)
    service = start(TELLS.format(port=quiet, told={"status": "ready"}))
    wait_ready(service, f"http://{HOST}:{quiet}", seconds=20, cloud="reachable")
    service = start(TELLS.format(port=alone, told={"cloud": "lost"}))
    wait_ready(service, f"http://{HOST}:{alone}", seconds=20)
    with pytest.raises(CommandError, match="not ready in 0 s"):
        wait_ready(service, f"http://{HOST}:{alone}", seconds=0.3, cloud="reachable")


def test_a_cloud_that_does_not_fit_the_edge_is_not_waited_for(start: Start) -> None:
    (port,) = free_ports(1)
    service = start(TELLS.format(port=port, told={"cloud": "unfit", "cloud_problem": "depth"}))
    with pytest.raises(CommandError, match=r"^depth$"):
        wait_ready(service, f"http://{HOST}:{port}", seconds=20, cloud="reachable")


def test_a_taken_port_is_named_with_the_option_that_chooses_another() -> None:
    (other,) = free_ports(1)
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=rf"port {port} of .* is taken: .* --cloud-port"):
            require_free(HOST, {"--edge-port": other, "--cloud-port": port})
    require_free(HOST, {"--edge-port": other, "--cloud-port": port})


def test_two_services_do_not_get_one_port() -> None:
    with pytest.raises(CommandError, match="--edge-port and --cloud-port are the same"):
        require_free(HOST, {"--edge-port": 1, "--cloud-port": 1})
