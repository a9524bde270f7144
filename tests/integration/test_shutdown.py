"""SIGTERM: what is under way ends within the grace time, and both processes leave with code 0."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from tests.support.apps import PATIENCE
from tests.support.services import Service, Services, new_services
from tests.support.sse import streamed

GRACE_SECONDS = 2


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = new_services(tmp_path_factory.mktemp("pair"), grace_seconds=str(GRACE_SECONDS))
    try:
        services.start()
        yield services
    finally:
        services.edge.abandon()
        services.cloud.abandon()


async def test_sigterm_ends_both_with_code_0_within_the_grace_time(pair: Services) -> None:
    """One stream is short enough for the grace time and is finished; one is not and is cut off."""
    async with httpx.AsyncClient(base_url=pair.edge.url, timeout=PATIENCE) as edge:
        short = streamed(edge, "Once", mode="split", max_new_tokens=20, min_new_tokens=20)
        long = streamed(edge, "Once", mode="cloud", max_new_tokens=2000, min_new_tokens=2000)
        async with aclosing(short), aclosing(long):
            first, _ = [await anext(stream) for stream in (short, long)]
            began = time.monotonic()
            leaving = asyncio.create_task(asyncio.to_thread(pair.edge.stop))
            events = [first, *[event async for event in short]]
            with pytest.raises(httpx.RemoteProtocolError):
                _ = [event async for event in long]
            assert await leaving == 0, pair.edge.tail()
            edge_took = time.monotonic() - began
    assert len(events) == 20
    assert events[-1]["generated_text"]
    began = time.monotonic()
    assert pair.cloud.stop() == 0, pair.cloud.tail()
    # Shutting down itself takes a moment on a busy machine.
    assert edge_took < GRACE_SECONDS + 8
    assert time.monotonic() - began < 8
    for service in (pair.edge, pair.cloud):
        assert "Finished server process" in service.tail()


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
