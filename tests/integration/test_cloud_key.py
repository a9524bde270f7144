"""The key an edge shows its cloud: wrong, right, exchanged."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.edge.refusals import LOCKED_OUT
from services.edge.replicas import Replica, Replicas
from services.edge.route import RetryBudget, Route
from shared.errors import CloudLost
from shared.runtime.breaker import Breaker
from tests.support.apps import (
    ask,
    cloud_app,
    edge_client,
    running,
    sources_of,
    until_cloud_is,
)
from tests.support.keys import written_keys
from tests.support.services import new_services

SESSIONS = 'scopes = ["sessions"]'
RIGHT, NEXT, WEAK = "tandem_right", "tandem_next", "tandem_weak"
QUICK: dict[str, Any] = {"probe_seconds": 0.05, "first_pause_seconds": 0.05}


def of_keys(folder: Path, **more: str) -> Path:
    """The cloud's keys."""
    keys = {RIGHT: SESSIONS, WEAK: 'scopes = ["metrics"]', **more}
    return written_keys(folder / "keys.toml", keys)


def key_of_edge(folder: Path, key: str) -> Path:
    """A file with the key an edge shows."""
    file = folder / "key"
    file.write_text(key + "\n")
    return file


async def require_alone(edge: httpx.AsyncClient, said: str) -> None:
    """The edge says what is wrong; what can do without the cloud is served."""
    told = await until_cloud_is("unfit", edge)
    assert told["cloud_problem"] == said
    assert told["modes"] == ["standalone", "collaborative"]
    answer = await ask(edge, "Once", max_new_tokens=4, min_new_tokens=4, threshold=1.0)
    assert (sources_of(answer), answer["details"]["degraded"]) == ({"fallback"}, True)
    refused = await edge.post(
        "/generate", json={"inputs": "Once", "parameters": {"mode": "split", "max_new_tokens": 4}}
    )
    assert refused.status_code == 503
    assert refused.json()["error"] == said


async def require_served(edge: httpx.AsyncClient) -> None:
    """The cloud answers this edge."""
    for mode in ("split", "cloud", "verified", "collaborative"):
        answer = await ask(edge, "Once", mode=mode, max_new_tokens=4, threshold=1.0)
        assert not answer["details"]["degraded"], mode


@pytest.mark.parametrize(
    ("key", "code"), [("tandem_wrong", "unauthorized"), (WEAK, "forbidden"), (None, "unauthorized")]
)
async def test_an_edge_with_a_wrong_key_goes_on_alone_and_heals_with_the_right_one(
    tmp_path: Path, key: str | None, code: str
) -> None:
    file = key_of_edge(tmp_path, key or RIGHT)
    keys = of_keys(tmp_path) if key else written_keys(tmp_path / "keys.toml", {"x": SESSIONS})
    async with (
        running(cloud_app(keys_file=keys)) as cloud,
        edge_client(cloud, cloud_key_file=file, **QUICK) as edge,
    ):
        await require_alone(edge, LOCKED_OUT[code])
        if key:
            key_of_edge(tmp_path, RIGHT)
        else:
            of_keys(tmp_path)
        await until_cloud_is("reachable", edge)
        await require_served(edge)


async def test_requests_notice_a_key_that_was_taken_out(tmp_path: Path) -> None:
    keys, file = of_keys(tmp_path), key_of_edge(tmp_path, RIGHT)
    async with (
        running(cloud_app(keys_file=keys)) as cloud,
        edge_client(cloud, cloud_key_file=file, probe_seconds=60) as edge,
    ):
        await until_cloud_is("reachable", edge)
        await require_served(edge)
        written_keys(keys, {NEXT: SESSIONS})
        await asyncio.sleep(1.1)
        answer = await ask(edge, "Once", max_new_tokens=4, min_new_tokens=4, threshold=1.0)
        assert sources_of(answer) == {"fallback"}
        await require_alone(edge, LOCKED_OUT["unauthorized"])
        metrics = (await edge.get("/metrics")).text
        assert 'outcome="unauthorized"' in metrics


async def test_a_key_is_exchanged_without_a_moment_alone(tmp_path: Path) -> None:
    mine = f'{SESSIONS}\nowner = "berlin"'
    keys = written_keys(tmp_path / "keys.toml", {RIGHT: mine, NEXT: mine})
    file = key_of_edge(tmp_path, RIGHT)
    async with (
        running(cloud_app(keys_file=keys)) as cloud,
        edge_client(cloud, cloud_key_file=file, **QUICK) as edge,
    ):
        await until_cloud_is("reachable", edge)
        key_of_edge(tmp_path, NEXT)
        for _ in range(6):
            await require_served(edge)
            await asyncio.sleep(0.2)
        written_keys(keys, {NEXT: mine})
        for _ in range(6):
            await require_served(edge)
            await asyncio.sleep(0.2)


async def test_a_limited_edge_waits_as_it_is_told_and_the_replica_stays_up() -> None:
    replica = Replica(httpx.URL("http://a"), None, Breaker(1, 8))
    route = Route(Replicas([replica.url], lambda: Breaker(1, 8)), "s", RetryBudget(), seconds=30.0)
    tries, loop = route.tries(), asyncio.get_running_loop()
    began = loop.time()
    await tries.again(CloudLost("no", reason="limited", retry_after=0.2))
    assert loop.time() - began >= 0.2
    too_late = CloudLost("no", reason="limited", retry_after=60.0)
    with pytest.raises(CloudLost):
        await tries.again(too_late)
    assert not too_late.of_the_path


def test_keys_are_in_no_log_of_either_side(tmp_path: Path) -> None:
    shown = str(key_of_edge(tmp_path, RIGHT))
    services = new_services(tmp_path, log_level="DEBUG", cloud_key_file=shown)
    services.cloud.settings = {"log_level": "DEBUG", "keys_file": str(of_keys(tmp_path))}
    try:
        services.start()
        httpx.post(f"{services.edge.url}/generate", json={"inputs": "Once"}, timeout=30)
        assert services.edge.stop() == services.cloud.stop() == 0
    finally:
        services.edge.abandon()
        services.cloud.abandon()
    for _, log in services.tails():
        assert "serving" in log
        assert RIGHT not in log
