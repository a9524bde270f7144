"""`X-Session-ID`: a request sent again, to this edge or another, goes on where its context ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest

from tests.support.apps import PATIENCE, Answer, cloud_app, edge_app, ids_of, until_cloud_is
from tests.support.sockets import listening
from tests.support.sse import streamed

MODES: dict[str, dict[str, Any]] = {
    "collaborative": {"mode": "collaborative", "threshold": 0.9},
    "collaborative with repair": {"mode": "collaborative", "threshold": 0.9, "repair": True},
    "verified": {"mode": "verified"},
    "verified by ids": {"mode": "verified", "verify": "ids"},
    "cloud": {"mode": "cloud"},
    "split": {"mode": "split"},
    "sampled": {"mode": "verified", "temperature": 0.9},
    "sampled with repair": {
        "mode": "collaborative",
        "threshold": 0.5,
        "repair": True,
        "temperature": 0.9,
    },
}
PROMPT = "The old man looked at"
LENGTH = {"max_new_tokens": 40, "min_new_tokens": 40}
NAMED = {"X-Session-ID": "talk-1"}


@contextmanager
def cloud() -> Iterator[str]:
    with listening(cloud_app()) as url:
        yield url


@asynccontextmanager
async def edge(cloud_url: str, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    with listening(edge_app(cloud_url, **settings)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            await until_cloud_is("reachable", client)
            yield client


async def asked(
    edge: httpx.AsyncClient, parameters: Mapping[str, Any], headers: Mapping[str, str] = NAMED
) -> Answer:
    body = {"inputs": PROMPT, "parameters": {"details": True, **LENGTH, **parameters}}
    response = await edge.post("/generate", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def broken_off(
    edge: httpx.AsyncClient, parameters: Mapping[str, Any], after: int
) -> list[int]:
    """Ask, and go away after so many tokens."""
    told: list[int] = []
    events = streamed(edge, PROMPT, headers=NAMED, **LENGTH, **parameters)
    async with aclosing(events):
        async for event in events:
            told.append(event["token"]["id"])
            if len(told) == after:
                break
    return told


async def contexts(cloud_url: str) -> int:
    async with httpx.AsyncClient(base_url=cloud_url) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    return round(
        float(next(each.split()[1] for each in lines if each.startswith("tandem_contexts ")))
    )


async def until_contexts(cloud_url: str, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while await contexts(cloud_url) != count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("name", MODES)
async def test_a_request_that_broke_off_goes_on_at_another_edge(name: str) -> None:
    """The tokens the first edge gave out come again, and those after are the uninterrupted ones."""
    parameters = MODES[name]
    with cloud() as url:
        async with edge(url) as first:
            told = await broken_off(first, parameters, 9)
        assert await contexts(url) == (not parameters.get("repair", False))
        async with edge(url) as second:
            answer = await asked(second, parameters)
            await until_contexts(url, 0)
            again = {"seed": answer["details"]["seed"]}
            whole = await asked(second, parameters | again, {})
    assert ids_of(answer)[:9] == told
    assert ids_of(answer) == ids_of(whole)
    assert not answer["details"]["degraded"]


async def test_an_exit_policy_remembers_what_was_said_before_it_broke_off() -> None:
    """The history is the text's, not the edge's that made the first half of it."""
    numbers = '{"thresholds": {"3": 0.95, "6": 0.9}, "newest": 0.5, "unsure": 2, "stay": 3}'
    policy = {"exit_policy": "moving_average", "exit_numbers": numbers}
    with cloud() as url:
        async with edge(url, **policy) as first:
            told = await broken_off(first, {}, 9)
        assert await contexts(url) == 1
        async with edge(url, **policy) as second:
            answer = await asked(second, {})
            await until_contexts(url, 0)
            whole = await asked(second, {}, {})
    assert ids_of(answer)[:9] == told
    assert ids_of(answer) == ids_of(whole)
    sources = [[token["source"] for token in each["details"]["tokens"]] for each in (answer, whole)]
    assert sources[0] == sources[1]
    assert {"cloud"} < set(sources[0])


async def test_what_the_cloud_has_decided_is_not_computed_again() -> None:
    with cloud() as url:
        async with edge(url) as first:
            told = await broken_off(first, MODES["cloud"], 20)
            passes = (await asked(first, MODES["cloud"]))["details"]["usage"]["cloud_passes"]
            whole = await asked(first, MODES["cloud"] | {"seed": 1}, {})
    assert len(told) == 20
    # The session's own count goes on: no pass was made twice.
    assert passes <= whole["details"]["usage"]["cloud_passes"] + 1


@pytest.mark.parametrize("name", ["verified", "sampled", "cloud"])
async def test_a_request_that_was_finished_can_be_asked_again(name: str) -> None:
    with cloud() as url:
        async with edge(url) as client:
            answers = [await asked(client, MODES[name]) for _ in range(2)]
            other = await asked(client, MODES[name], {"X-Session-ID": "talk-2"})
            await until_contexts(url, 0)
    assert ids_of(answers[0]) == ids_of(answers[1])
    assert answers[0]["details"]["seed"] == answers[1]["details"]["seed"]
    assert other["details"]["seed"] != answers[0]["details"]["seed"]


async def test_the_newer_of_two_requests_of_one_session_goes_on() -> None:
    """Whoever still listens to the older one is told, or has its tokens; never other ones."""
    with cloud() as url:
        async with edge(url) as first, edge(url) as second:
            older = streamed(first, PROMPT, headers=NAMED, **LENGTH, **MODES["cloud"])
            async with aclosing(older):
                events = [await anext(older) for _ in range(3)]
                newer = await asked(second, MODES["cloud"])
                events += [event async for event in older]
    told = [event["token"]["id"] for event in events if "token" in event]
    assert told == ids_of(newer)[: len(told)]
    assert len(told) == LENGTH["max_new_tokens"] or events[-1]["error_type"] == "fenced"


async def test_a_name_that_cannot_be_one_is_refused() -> None:
    with cloud() as url:
        async with edge(url) as client:
            response = await client.post(
                "/generate", json={"inputs": "Once"}, headers={"X-Session-ID": "a b"}
            )
    assert response.status_code == 422
    assert response.json()["field"] == "X-Session-ID"


async def test_a_session_nobody_named_ends_with_its_request() -> None:
    with cloud() as url:
        async with edge(url) as client:
            events = streamed(client, PROMPT, **LENGTH, **MODES["verified"])
            async with aclosing(events):
                await anext(events)
            await until_contexts(url, 0)
