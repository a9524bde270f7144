"""SIGTERM: not ready at once, closed when load balancers know, what is under way ends within the
grace time, and both processes leave with code 0.
"""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from shared.runtime.lifecycle import ONE_TELLING_SECONDS
from tests.support.apps import PATIENCE
from tests.support.services import Service, Services
from tests.support.slow_services import slow_services
from tests.support.sse import streamed

GRACE_SECONDS = 6
DRAIN_SECONDS = 8


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A pair whose steps are so slow that what is long takes minutes on any machine."""
    edge = {"grace_seconds": str(GRACE_SECONDS), "audit_share": "0"}
    services = slow_services(tmp_path_factory.mktemp("pair"), {}, edge)
    try:
        services.start()
        yield services
    finally:
        services.edge.abandon()
        services.cloud.abandon()


async def test_sigterm_ends_both_with_code_0_within_the_grace_time(pair: Services) -> None:
    """One stream is short enough for the grace time and is finished; others are not, and say so."""
    longest = {"mode": "cloud", "max_new_tokens": 2000, "min_new_tokens": 2000}
    async with httpx.AsyncClient(base_url=pair.edge.url, timeout=PATIENCE) as edge:
        short = streamed(edge, "Once", mode="split", max_new_tokens=5, min_new_tokens=5)
        long = streamed(edge, "Once", **longest)
        whole = asyncio.create_task(
            edge.post("/generate", json={"inputs": "Once", "parameters": longest})
        )
        async with aclosing(short), aclosing(long):
            first, _ = [await anext(stream) for stream in (short, long)]
            began = time.monotonic()
            leaving = asyncio.create_task(asyncio.to_thread(pair.edge.stop))
            events = [first, *[event async for event in short]]
            broken = [event async for event in long]
            assert await leaving == 0, pair.edge.tail()
            edge_took = time.monotonic() - began
    assert len(events) == 5
    assert events[-1]["generated_text"]
    assert broken[-1]["error_type"] == "draining"
    assert not any("error" in event for event in broken[:-1])
    refused = await whole
    assert (refused.status_code, refused.json()["error_type"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) >= 1
    began = time.monotonic()
    assert pair.cloud.stop() == 0, pair.cloud.tail()
    # Shutting down itself takes a moment on a busy machine.
    assert GRACE_SECONDS <= edge_took < GRACE_SECONDS + 20
    assert time.monotonic() - began < 20
    for service in (pair.edge, pair.cloud):
        assert "Finished server process" in service.tail()


@pytest.mark.parametrize("role", ["edge", "cloud"])
def test_a_service_is_first_not_ready_then_closed_then_gone(role: str, tmp_path: Path) -> None:
    service = Service(role, tmp_path / "log", {"drain_seconds": str(DRAIN_SECONDS)})
    work = {
        "edge": ("POST", "/generate", {"inputs": "Once"}),
        "cloud": ("GET", "/v1/manifest", None),
    }
    method, path, body = work[role]
    try:
        service.start()
        service.wait_until_ready()
        with httpx.Client(base_url=service.url, timeout=PATIENCE) as client:
            assert "connection" not in client.get("/healthz").headers
            began = time.monotonic()
            service.tell(signal.SIGTERM)
            while (ready := client.get("/readyz")).status_code == 200:
                assert time.monotonic() - began < PATIENCE
            assert (ready.status_code, ready.json()["status"]) == (503, "draining")
            assert client.get("/healthz").status_code == 200
            while client.get("/healthz").headers.get("connection") != "close":
                assert time.monotonic() - began < DRAIN_SECONDS
            served = client.request(method, path, json=body)
            assert served.status_code == 200
            assert role == "edge" or served.json()["draining"] is True
        assert time.monotonic() - began < DRAIN_SECONDS, "too slow a machine to tell"
        assert service.wait() == 0, service.tail()
        assert time.monotonic() - began >= DRAIN_SECONDS
        assert "draining" in service.tail()
    finally:
        service.abandon()


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_told_again_a_service_ends_at_once(again: signal.Signals, tmp_path: Path) -> None:
    service = Service("cloud", tmp_path / "log", {"drain_seconds": "60"})
    try:
        service.start()
        service.wait_until_ready()
        service.tell(signal.SIGTERM)
        # Its second counts from when it took the first one in.
        while '"draining"' not in service.tail():
            assert service.is_alive()
            time.sleep(0.01)
        time.sleep(ONE_TELLING_SECONDS + 0.2)
        began = time.monotonic()
        service.tell(again)
        assert service.wait() == 0, service.tail()
        assert time.monotonic() - began < 30
    finally:
        service.abandon()


@pytest.mark.parametrize("role", ["edge", "cloud"])
@pytest.mark.parametrize("seconds", [0.0, 1.2])
def test_told_to_stop_while_it_starts_a_service_leaves_with_code_0(
    role: str, seconds: float, tmp_path: Path
) -> None:
    service = Service(role, tmp_path / "log", {})
    try:
        service.start()
        while not service.hears(signal.SIGTERM):
            time.sleep(0.01)
        time.sleep(seconds)
        assert service.stop() == 0, service.tail()
        assert "Traceback" not in service.tail()
    finally:
        service.abandon()
