"""A lost cloud: `collaborative` goes on with the edge's tokens, the modes that promise the full
model's text say that they cannot, and a cloud that comes back is used without a restart.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.support.apps import PATIENCE, ask, cloud_app, edge_client, sources_of, until_cloud_is
from tests.support.prompts import prompts
from tests.support.proxy import Proxy, Trouble, serving
from tests.support.reference import EDGE_DEPTH, SPLIT, text
from tests.support.services import Services, free_port
from tests.support.sockets import listening
from tests.support.sse import Event, streamed

QUICK: Mapping[str, Any] = {
    "cloud_timeout_seconds": 0.4,
    "connect_timeout_seconds": 0.4,
    "first_pause_seconds": 0.1,
    "longest_pause_seconds": 0.2,
    "probe_seconds": 0.1,
}
TROUBLES = [trouble for trouble in Trouble if trouble is not Trouble.NONE]
EXITS = {f"exit:{SPLIT}", f"exit:{EDGE_DEPTH}"}
STREAMS: dict[str, dict[str, Any]] = {
    "collaborative": {"mode": "collaborative", "threshold": 0.9},
    "collaborative with repair": {"mode": "collaborative", "threshold": 0.9, "repair": True},
    "cloud": {"mode": "cloud"},
    "split": {"mode": "split"},
    "cloud or fallback": {"mode": "cloud", "on_cloud_loss": "degrade"},
    "split or fallback": {"mode": "split", "on_cloud_loss": "degrade"},
    "collaborative or error": {"mode": "collaborative", "threshold": 1.0, "on_cloud_loss": "error"},
}
PROMISING = ("cloud", "split", "collaborative or error")


@pytest.fixture
async def edge(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def cloud_restored(services: Services) -> Iterator[None]:
    """Whatever the test did to the cloud, those after it find it running."""
    yield
    services.cloud.abandon()
    services.cloud.start()
    services.cloud.wait_until_ready()
    services.edge.wait_until_ready("reachable")


@pytest.mark.usefixtures("cloud_restored")
async def test_a_cloud_killed_and_restarted(services: Services, edge: httpx.AsyncClient) -> None:
    """Killed while all of them stream; asked again while it is gone, and again when it is back."""
    long = {"max_new_tokens": 300, "min_new_tokens": 300, "details": True}
    begun = {name: asyncio.Event() for name in STREAMS}

    async def follow(name: str) -> list[Event]:
        events: list[Event] = []
        prompt = prompts(text(), 1)[0]
        async for event in streamed(edge, prompt, **STREAMS[name], **long):
            events.append(event)
            if len(events) == 4:
                begun[name].set()
        return events

    following = {name: asyncio.create_task(follow(name)) for name in STREAMS}
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(each.wait() for each in begun.values()))
    services.cloud.kill()
    for name, task in following.items():
        _check_end(name, await task)

    await until_cloud_is("lost", edge)
    for name, parameters in STREAMS.items():
        await _check_while_gone(edge, name, parameters)

    services.cloud.start()
    services.cloud.wait_until_ready()
    services.edge.wait_until_ready("reachable")
    for name, parameters in STREAMS.items():
        again = await ask(edge, "Once", max_new_tokens=4, **parameters)
        assert not again["details"]["degraded"], name
        assert "fallback" not in sources_of(again), name


def _check_end(name: str, events: list[Event]) -> None:
    """How a stream ends whose cloud is killed after its first tokens."""
    if name in PROMISING:
        assert set(events[-1]) >= {"error", "error_type"}, (name, events[-1])
        assert events[-1]["error_type"] == "cloud_lost"
        assert len(events) > 4
        assert all(event["token"]["source"] != "fallback" for event in events[:-1]), name
        return
    details = events[-1]["details"]
    assert len(events) == details["generated_tokens"] == 300, name
    assert details["degraded"], name
    assert not details["exact"], name
    sources = [event["token"]["source"] for event in events]
    assert "cloud" in sources[:4] or name.startswith("collaborative"), name
    assert "fallback" in sources, name
    lost_at = sources.index("fallback")
    assert "cloud" not in sources[lost_at:], (name, "there was no cloud any more")
    if not name.startswith("collaborative"):
        assert set(sources[lost_at:]) == {"fallback"}
    assert "".join(e["token"]["text"] for e in events) == events[-1]["generated_text"]


async def _check_while_gone(edge: httpx.AsyncClient, name: str, wanted: dict[str, Any]) -> None:
    """What a request gets that finds no cloud."""
    if name in PROMISING:
        for stream in (False, True):
            body = {"inputs": "Once", "parameters": wanted, "stream": stream}
            response = await edge.post("/generate", json=body)
            assert response.status_code == 503, (name, response.text)
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error_type"] == "cloud_lost"
        return
    answer = await ask(edge, "Once", max_new_tokens=8, min_new_tokens=8, **wanted)
    assert answer["details"]["degraded"], name
    assert not answer["details"]["exact"], name
    assert sources_of(answer) <= {"fallback", *EXITS}, name


async def _require_trouble_met(edge: httpx.AsyncClient) -> None:
    """Each mode meets the trouble afresh, and then as a link known to be down."""
    for _ in range(2):
        for mode in ("collaborative", "split", "cloud"):
            given = {"mode": mode, "threshold": 1.0, "on_cloud_loss": "degrade"}
            answer = await ask(edge, "Once", max_new_tokens=4, min_new_tokens=4, **given)
            assert answer["details"]["degraded"], mode
            assert sources_of(answer) == {"fallback"}, mode
        for mode in ("split", "cloud"):
            await _check_while_gone(edge, mode, {"mode": mode, "max_new_tokens": 4})


async def test_refused_connections() -> None:
    refused = {**QUICK, "connect_timeout_seconds": 30}  # which nobody waits for
    async with edge_client(f"http://127.0.0.1:{free_port()}", **refused) as edge:
        await _require_trouble_met(edge)
        told = (await edge.get("/readyz")).json()
        assert (told["cloud"], told["cloud_problem"]) == ("lost", "refused")
        assert told["modes"] == ["standalone", "collaborative"]
        metrics = (await edge.get("/metrics")).text
        assert 'tandem_request_failures_total{reason="cloud_lost"}' in metrics
        assert "tandem_link_up 0.0" in metrics


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_cloud_in_trouble(trouble: Trouble) -> None:
    """A cloud that answers like this from the first: nothing hangs, nothing is a 500."""
    with serving(Proxy("http://127.0.0.1:9", trouble=trouble, wholly=True)) as proxy:
        async with edge_client(proxy.url, **QUICK) as edge:
            await _require_trouble_met(edge)
            metrics = (await edge.get("/metrics")).text
    outcome = {
        Trouble.SILENCE: "timeout",
        Trouble.SERVER_ERROR: "status_500",
        Trouble.NONSENSE: "malformed",
        Trouble.BREAK: "broken",
    }[trouble]
    assert re.search(rf'outcome="{outcome}".* [1-9]', metrics)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_trouble_that_begins_in_the_middle_of_a_text(trouble: Trouble) -> None:
    """The tokens before are the cloud's; `split` breaks off, `collaborative` goes on, and once the
    trouble is over the cloud is used again.
    """
    given = {"max_new_tokens": 12, "min_new_tokens": 12, "threshold": 1.0, "details": True}
    with listening(cloud_app()) as cloud, serving(Proxy(cloud)) as proxy:
        # Only silence is found by waiting; all else is to come through, however slowly.
        patient = {
            **QUICK,
            "cloud_timeout_seconds": 5 if trouble is Trouble.SILENCE else 30,
            "connect_timeout_seconds": 10,
            "probe_seconds": 3,
        }
        async with edge_client(proxy.url, **patient) as edge:
            for mode in ("collaborative", "split"):
                proxy.trouble = Trouble.NONE
                await _until_trusted(edge)
                proxy.healthy = len(proxy.blocks()) + 5
                proxy.trouble = trouble
                body = {"inputs": "Once", "parameters": {"mode": mode, **given}}
                response = await edge.post("/generate", json=body)
                if mode == "split":
                    assert response.status_code == 503
                    assert response.json()["error_type"] == "cloud_lost"
                    continue
                details = response.json()["details"]
                sources = [token["source"] for token in details["tokens"]]
                assert sources[:6] == ["cloud"] * 5 + ["fallback"]
                assert details["degraded"]


async def _until_trusted(edge: httpx.AsyncClient) -> None:
    """Wait until the cloud is asked again: the link rests for a while after a failure."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = await ask(edge, "Once", mode="collaborative", threshold=1.0, max_new_tokens=1)
        if not answer["details"]["degraded"]:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
