"""Whoever hangs up is worked for no more: over real sockets, on both sides, within a step.

The services' steps take tens of milliseconds here, so that they can be counted: between the count
before the hang-up and the last one a step may end, one may have been under way, and one may follow.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.faults.wishes import WAYS
from tests.support.apps import PATIENCE
from tests.support.prompts import passage
from tests.support.services import Service, Services
from tests.support.size import Size
from tests.support.slow_services import slow_services

# The first of them starts both services.
pytestmark = pytest.mark.timeout(900)
# Rows of a step: a long prompt takes dozens.
ROWS = "32"
MOST_STEPS = 3
# A busy machine halts one process while the other steps on; who is never told fails every time.
ATTEMPTS = 3
EVERY_WAY: Mapping[str, Mapping[str, Any]] = {"standalone": {"mode": "standalone"}, **WAYS}
# In a short run each test takes some of the ways, all of them together every one.
SHARES = {
    "test_a_reader_of_a_stream_hangs_up_after_ten_tokens": (0, 3),
    "test_who_waits_for_the_whole_answer_hangs_up_in_the_middle_of_it": (1, 4),
    "test_who_hangs_up_while_the_prompt_is_run_is_not_waited_for": (2, 5),
    "test_who_leaves_the_queue_is_not_begun": (0, 6),
}
GAUGES = (
    "tandem_num_requests_running",
    "tandem_num_requests_waiting",
    "tandem_contexts",
    "tandem_context_bytes",
    "tandem_kv_cache_bytes",
)
STEPS, ROWS_RUN = "tandem_step_rows_count", "tandem_rows_total"
LONG_PROMPT = " ".join(passage(seed) for seed in range(3))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which ways each test takes."""
    ways, name = list(EVERY_WAY), metafunc.function.__name__
    if metafunc.config.getoption("--size") is Size.SHORT:
        ways = [ways[place % len(ways)] for place in SHARES[name]]
    metafunc.parametrize("way", ways)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """An edge and its cloud whose steps can be counted."""
    own = {"max_step_rows": ROWS, "prefix_bytes": "0"}
    pair = slow_services(
        tmp_path_factory.mktemp("gone"), own, {"max_step_rows": ROWS, "draft_plan": "assist"}
    )
    try:
        pair.start(seconds=120)
        yield pair
        assert pair.edge.stop() == 0, pair.edge.tail()
        assert pair.cloud.stop() == 0, pair.cloud.tail()
    finally:
        pair.edge.abandon()
        pair.cloud.abandon()


def _value(service: Service, name: str) -> float:
    lines = service.metrics().splitlines()
    found = (line for line in lines if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(line.split()[-1]) for line in found)


def _both(services: Services, name: str) -> tuple[float, float]:
    return _value(services.edge, name), _value(services.cloud, name)


def _left(services: Services) -> dict[str, float]:
    """Gauges that are not at zero."""
    found = {
        f"{service.role} {name}": _value(service, name)
        for service in (services.edge, services.cloud)
        for name in GAUGES
    }
    return {name: value for name, value in found.items() if value}


def _until(true: Callable[[], bool], what: object = "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def _until_idle(services: Services) -> tuple[float, float]:
    """Wait until nothing is left; returns the steps run by then, when no more follow."""
    _until(lambda: not _left(services), _left(services))
    steps = _both(services, STEPS)
    time.sleep(0.3)
    assert _both(services, STEPS) == steps
    return steps


@contextmanager
def _asked(services: Services, prompt: str, **parameters: Any) -> Iterator[socket.socket]:
    """A request that was sent; leaving the block hangs up."""
    stream = parameters.pop("stream", True)
    body = {"inputs": prompt, "parameters": parameters, "stream": stream}
    content = json.dumps(body).encode()
    head = f"POST /generate HTTP/1.1\r\nhost: edge\r\ncontent-length: {len(content)}\r\n"
    with socket.create_connection(("127.0.0.1", services.edge.port), timeout=PATIENCE) as client:
        client.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + content)
        yield client


When = Callable[[socket.socket], object]


def _hung_up(services: Services, whenever: Callable[[], When], **asked: Any) -> None:
    """Ask, hang up when what `whenever` gives returns, and hold that both sides are idle within a
    step, in one of some attempts.
    """
    seen = []
    for _ in range(ATTEMPTS):
        _until_idle(services)
        cancelled = 'tandem_request_failures_total{reason="cancelled"}'
        already = _value(services.edge, cancelled)
        when = whenever()
        with _asked(services, **asked) as client:
            when(client)
            before = _both(services, STEPS)
        after = _until_idle(services)
        more = {role: after[n] - before[n] for n, role in enumerate(("edge", "cloud"))}
        seen.append((more, _value(services.edge, cancelled) - already))
        if max(more.values()) <= MOST_STEPS and seen[-1][1] == 1:
            return
    raise AssertionError(seen)


def _ten_tokens() -> When:
    def wait(client: socket.socket) -> None:
        seen = b""
        while seen.count(b"data: ") < 10:
            seen += client.recv(65536)

    return wait


def _steps_more(service: Service, count: int) -> When:
    begin = _value(service, STEPS)
    return lambda _: _until(lambda: _value(service, STEPS) >= begin + count)


def test_a_reader_of_a_stream_hangs_up_after_ten_tokens(slow: Services, way: str) -> None:
    _hung_up(slow, _ten_tokens, prompt=passage(1), max_new_tokens=400, **EVERY_WAY[way])


def test_who_waits_for_the_whole_answer_hangs_up_in_the_middle_of_it(
    slow: Services, way: str
) -> None:
    worker = slow.cloud if way == "cloud" else slow.edge
    asked = {"prompt": passage(2), "max_new_tokens": 400, "stream": False, **EVERY_WAY[way]}
    _hung_up(slow, partial(_steps_more, worker, 12), **asked)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_who_hangs_up_while_the_prompt_is_run_is_not_waited_for(
    slow: Services, way: str, stream: bool
) -> None:
    """On the side whose turn it is; on the cloud, once the edge has run it."""
    asked = {"prompt": LONG_PROMPT, "max_new_tokens": 20, "stream": stream, **EVERY_WAY[way]}
    if way != "cloud":
        _hung_up(slow, partial(_steps_more, slow.edge, 3), **asked)
    if way != "standalone":
        _hung_up(slow, partial(_steps_more, slow.cloud, 3), **asked)


def test_who_leaves_the_queue_is_not_begun(slow: Services, way: str) -> None:
    """Prompts are run one after the other: the second is still waiting when its client leaves."""
    given = {"max_new_tokens": 1, "min_new_tokens": 1, **EVERY_WAY[way]}
    _until_idle(slow)
    begin = _both(slow, ROWS_RUN)
    with _asked(slow, LONG_PROMPT, **given) as alone:
        _to_the_end(alone)
    _until_idle(slow)
    usual = _both(slow, ROWS_RUN)
    worker = slow.cloud if way == "cloud" else slow.edge
    first_step = _steps_more(worker, 2)
    with _asked(slow, LONG_PROMPT, **given) as first:
        first_step(first)
        with _asked(slow, LONG_PROMPT, **given):
            waiting = "tandem_num_requests_waiting"
            _until(lambda: _value(worker, waiting) >= 2)
        _to_the_end(first)
    _until_idle(slow)
    again = _both(slow, ROWS_RUN)
    for n, role in enumerate(("edge", "cloud")):
        assert again[n] - usual[n] <= usual[n] - begin[n] + int(ROWS), role


def _to_the_end(client: socket.socket) -> None:
    seen = b""
    while b'"generated_text": "' not in seen:
        part = client.recv(65536)
        assert part, seen
        seen += part
