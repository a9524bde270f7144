"""Streams have text-generation-inference's shape, say when they are silent, and hanging up frees
what worked for them.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from services.edge.engine import EdgeEngine
from tests.support.apps import PATIENCE, ask, edge_app, edge_client, ids_of, until_cloud_is
from tests.support.prompts import prompts
from tests.support.reference import text
from tests.support.services import Services
from tests.support.sockets import listening
from tests.support.sse import all_events, events_of, streamed
from tests.support.steps import watched

RUNNING, WAITING = "tandem_num_requests_running", "tandem_num_requests_waiting"
LONG: Mapping[str, Any] = {"max_new_tokens": 1900, "min_new_tokens": 1900}
MODES = ("standalone", "collaborative", "cloud", "split")


def gauge(metrics: str, name: str) -> float:
    """A metric's value, over all of its labels."""
    lines = (line for line in metrics.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(line.split()[-1]) for line in lines)


@pytest.mark.parametrize("mode", MODES)
async def test_events_are_tokens_and_the_last_one_carries_the_text(
    services: Services, mode: str
) -> None:
    prompt = prompts(text(), 1)[0]
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as edge:
        events = await all_events(edge, prompt, mode=mode, max_new_tokens=24, details=True)
        whole = await ask(edge, prompt, mode=mode, max_new_tokens=24)
    assert all(set(event) == {"token", "generated_text", "details"} for event in events)
    assert all(set(event["token"]) == {"id", "text", "source", "confidence"} for event in events)
    assert [e["generated_text"] for e in events[:-1]] == [None] * (len(events) - 1)
    assert [e["details"] for e in events[:-1]] == [None] * (len(events) - 1)
    last = events[-1]
    assert "".join(event["token"]["text"] for event in events) == last["generated_text"]
    assert last["generated_text"] == whole["generated_text"]
    assert [event["token"]["id"] for event in events] == ids_of(whole)
    assert last["details"]["tokens"] == [event["token"] for event in events]
    assert last["details"]["generated_tokens"] == len(events)
    assert set(last["details"]) == set(whole["details"])
    for event in events:
        kept = event["token"]["source"].startswith("exit:")
        assert kept == (event["token"]["confidence"] is not None)


async def test_details_come_only_when_asked_for(services: Services) -> None:
    prompt = prompts(text(), 1)[0]
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as edge:
        events = await all_events(edge, prompt, max_new_tokens=3)
        whole = await edge.post(
            "/generate", json={"inputs": prompt, "parameters": {"max_new_tokens": 3}}
        )
    assert [event["details"] for event in events] == [None] * len(events)
    assert set(whole.json()) == {"generated_text"}


@pytest.mark.parametrize("mode", MODES)
async def test_a_stop_string_is_cut_and_ends_the_text(services: Services, mode: str) -> None:
    prompt = prompts(text(), 1)[0]
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as edge:
        given: dict[str, Any] = {"mode": mode, "max_new_tokens": 48, "min_new_tokens": 48}
        unstopped = (await ask(edge, prompt, **given))["generated_text"]
        stop = unstopped[20:25]
        stopped = await ask(edge, prompt, stop=["never in the text", stop], **given)
        events = await all_events(edge, prompt, stop=[stop], details=True, **given)
    assert stopped["generated_text"] == unstopped[: unstopped.index(stop)]
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    assert "".join(event["token"]["text"] for event in events) == stopped["generated_text"]
    assert events[-1]["generated_text"] == stopped["generated_text"]
    assert len(events) < 48, "nothing is generated after a stop string"


async def test_silence_carries_a_comment() -> None:
    """A step of a third of a second is several heartbeats long."""
    body = {"inputs": "Once", "parameters": {"max_new_tokens": 3}, "stream": True}
    with watched(EdgeEngine, slowed_by=0.35):
        async with edge_client("", heartbeat_seconds=0.1) as edge:
            response = await edge.post("/generate", json=body)
    events, comments = events_of(response.text)
    assert len(events) == 3
    assert len(comments) >= 2, "two waits between three tokens"
    assert set(comments) == {": still working"}


async def test_a_quick_stream_carries_no_comment(services: Services) -> None:
    body = {"inputs": "Once", "parameters": {"max_new_tokens": 3}, "stream": True}
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as edge:
        events, comments = events_of((await edge.post("/generate", json=body)).text)
    assert (len(events), comments) == (3, [])


@pytest.mark.parametrize("mode", MODES)
async def test_hanging_up_in_mid_stream_frees_both_sides(services: Services, mode: str) -> None:
    await _until_idle(services)
    before = gauge(services.cloud.metrics(), "tandem_tokens_total")
    async with (
        httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as edge,
        aclosing(streamed(edge, prompts(text(), 1)[0], mode=mode, **LONG)) as events,
    ):
        seen = [await anext(events) for _ in range(3)]
        assert gauge(services.edge.metrics(), RUNNING) == 1
        assert gauge(services.cloud.metrics(), "tandem_contexts") == (mode != "standalone")
    assert len(seen) == 3
    await _until_idle(services)
    made = gauge(services.cloud.metrics(), "tandem_tokens_total") - before
    assert made < 1500, "the cloud went on for nobody"


async def test_hanging_up_on_a_whole_answer_frees_both_sides(services: Services) -> None:
    body = {"inputs": "Once", "parameters": {"mode": "collaborative", **LONG}}
    impatient = httpx.Timeout(PATIENCE, read=0.5)
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=impatient) as edge:
        with pytest.raises(httpx.ReadTimeout):
            await edge.post("/generate", json=body)
    await _until_idle(services)


async def test_hanging_up_again_and_again_costs_no_connection(services: Services) -> None:
    """An edge for one request at a time keeps three connections; six are hung up on."""
    with listening(edge_app(services.cloud.url, max_requests=1)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as edge:
            await until_cloud_is("reachable", edge)
            for _ in range(6):
                async with aclosing(streamed(edge, "Once", mode="cloud", **LONG)) as events:
                    await anext(events)
                await _until(lambda: gauge(httpx.get(f"{url}/metrics").text, RUNNING) == 0)
            answer = await ask(edge, "Once", mode="cloud", max_new_tokens=4)
    assert not answer["details"]["degraded"]
    await _until_idle(services)


async def test_a_session_that_ended_leaves_nothing_behind(services: Services) -> None:
    async with httpx.AsyncClient(base_url=services.edge.url, timeout=PATIENCE) as edge:
        for mode in MODES:
            await ask(edge, "Once", mode=mode, max_new_tokens=4)
    await _until_idle(services)


async def _until_idle(services: Services) -> None:
    """Wait until every gauge of both sides is back at zero."""

    def idle() -> bool:
        edge, cloud = services.edge.metrics(), services.cloud.metrics()
        gauges = [gauge(side, name) for side in (edge, cloud) for name in (RUNNING, WAITING)]
        contexts = [gauge(cloud, name) for name in ("tandem_contexts", "tandem_context_bytes")]
        return not any((*gauges, *contexts))

    await _until(idle)


async def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
