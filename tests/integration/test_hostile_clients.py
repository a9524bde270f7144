"""Clients that hold out, all kinds of them at once, on both services: others are served meanwhile,
memory stays, and at the end nothing is left of them.
"""

import resource
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.apps import PATIENCE
from tests.support.raw_client import closed_by_peer, connect, say
from tests.support.services import Service, Services, new_services
from tests.support.size import Size

SECONDS = 3  # of each patience
ROUND = 0.02
# What a connection may cost, and what a service may grow by besides.
BYTES_EACH = 48 * 1024
BYTES_BESIDES = 48 * 1024**2
HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
PATHS = {"edge": b"/generate", "cloud": b"/v1/blocks"}


@pytest.fixture
def besieged(tmp_path: Path, size: Size) -> Iterator[Services]:
    """Both services, with room for the idle connections."""
    short = {f"{what}_timeout_seconds": str(SECONDS) for what in ("head", "body", "write")}
    short["max_connections"] = str(size.pick(short=600, long=12_000))
    pair = new_services(tmp_path, **short)
    pair.cloud.settings = short
    try:
        pair.start()
        yield pair
    finally:
        pair.edge.abandon()
        pair.cloud.abandon()


@pytest.mark.timeout(900)
def test_clients_that_hold_out_cost_the_others_little(besieged: Services, size: Size) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pair = besieged
    before = _latencies(pair, seconds=2)
    grown = {s.role: s.resident_bytes() for s in (pair.edge, pair.cloud)}
    held = {
        "edge": _besiege(pair.edge, idle=size.pick(short=300, long=10_000)),
        "cloud": _besiege(pair.cloud, idle=size.pick(short=100, long=1000)),
    }
    during = _latencies(pair, seconds=2)
    for service in (pair.edge, pair.cloud):
        grown[service.role] = service.resident_bytes() - grown[service.role]
    _say_much(pair)
    still = _latencies(pair, seconds=SECONDS + 1)
    for role, known in grown.items():
        count = len(held[role][0]) + len(held[role][1])
        print(f"{role}: {count} connections, {known / 2**20:.1f} MiB more")  # noqa: T201 (the figures are what it is for)
        assert known < BYTES_BESIDES + BYTES_EACH * count
    for role in before:
        rows = [_summary(each[role]) for each in (before, during, still)]
        print(f"{role}: before {rows[0]}, besieged {rows[1]}, and large heads {rows[2]}")  # noqa: T201 (the figures are what it is for)
        medians = [statistics.median(each[role]) for each in (before, during, still)]
        assert max(medians[1:]) < 0.5 + 5 * medians[0]
    for service in (pair.edge, pair.cloud):
        idle, owing = held[service.role]
        assert closed_by_peer(owing) == len(owing), "each was to owe something, and for too long"
        assert closed_by_peer(idle) == 0, "nobody needed their place"
        for each in (*idle, *owing):
            each.close()
        _until(lambda s=service: _metric(s, "tandem_connections") <= 3)  # type: ignore[misc]
        assert _metric(service, "tandem_num_requests_running") == 0
        assert service.stop() == 0
        assert "Traceback" not in service.log.read_text()


def _besiege(service: Service, *, idle: int) -> tuple[list[socket.socket], list[socket.socket]]:
    """Connections that say nothing, and those that owe something: the rest of a head, of a body, or
    the reading of answers.
    """
    head, owing = HEAD % PATHS[service.role], []
    for sent in (
        head,
        head + b"Content-Length: 900000\r\n\r\n",
        head + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n{",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 16,
    ):
        for _ in range(20):
            one = connect(service.port, receive_buffer=4096)
            one.sendall(sent)
            owing.append(one)
    greedy = owing[-20:]
    for one in greedy:  # more than the kernel holds for those who do not read
        one.setblocking(False)
        for _ in range(8):
            time.sleep(0.005)
            one.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
    return [connect(service.port) for _ in range(idle)], owing


def _say_much(pair: Services) -> None:
    """Heads and bodies of any size."""
    for service in (pair.edge, pair.cloud):
        head = HEAD % PATHS[service.role]
        grown = service.resident_bytes()
        for _ in range(5):
            heard = say(service.port, head + b"a: ", *[b"b" * 10**6] * 10)
            assert heard.statuses == [431] or heard.closed
            heard = say(service.port, head + b"Content-Length: 1000000000\r\n\r\n")
            assert heard.statuses == [413]
            heard = say(
                service.port, head + b"Content-Length: 1000000000\r\n\r\n", *[b"b" * 10**6] * 40
            )
            assert heard.closed
            assert heard.seconds < 5
        assert service.resident_bytes() - grown < BYTES_BESIDES


def _latencies(pair: Services, *, seconds: float) -> dict[str, list[float]]:
    """Seconds of requests one after the other, each on a connection of its own."""
    asked: dict[str, Callable[[], httpx.Response]] = {
        "edge": lambda: httpx.post(
            f"{pair.edge.url}/generate",
            json={"inputs": "Once", "parameters": {"max_new_tokens": 1, "mode": "split"}},
            timeout=PATIENCE,
        ),
        "cloud": lambda: httpx.get(f"{pair.cloud.url}/v1/manifest", timeout=PATIENCE),
    }
    found: dict[str, list[float]] = {role: [] for role in asked}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for role, ask in asked.items():
            began = time.perf_counter()
            assert ask().status_code == 200
            found[role].append(time.perf_counter() - began)
        time.sleep(ROUND)
    return found


def _summary(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1e3:.0f} ms (most {max(seconds) * 1e3:.0f} ms)"


def _metric(service: Service, name: str) -> float:
    (line,) = (each for each in service.metrics().splitlines() if each.startswith(f"{name} "))
    return float(line.split()[-1])


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
