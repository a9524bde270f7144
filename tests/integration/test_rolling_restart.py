"""Replicas of the cloud that are told to stop one after the other, under load: nobody notices."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.apps import PATIENCE, Answer, ask, ids_of
from tests.support.services import Service

MODES = ("cloud", "verified", "split", "collaborative")
PROMPTS = ("Once upon a time", "The old ferryman")
DRAIN_SECONDS = 3
# How requests to the cloud may end: answered, or asked to go elsewhere. None is cut off.
WORDS = {"ok", "cancelled", "draining", "moved"}


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[Service]]:
    settings = {"drain_seconds": str(DRAIN_SECONDS)}
    clouds = [Service("cloud", tmp_path / f"cloud-{n}.log", settings) for n in range(2)]
    try:
        for cloud in clouds:
            cloud.start()
        for cloud in clouds:
            cloud.wait_until_ready()
        yield clouds
    finally:
        for cloud in clouds:
            cloud.abandon()


@pytest.fixture
def edge(replicas: list[Service], tmp_path: Path) -> Iterator[Service]:
    urls = ",".join(cloud.url for cloud in replicas)
    edge = Service("edge", tmp_path / "edge.log", {"cloud_url": urls})
    try:
        edge.start()
        edge.wait_until_ready("reachable")
        yield edge
    finally:
        edge.abandon()


async def asked(client: httpx.AsyncClient, mode: str, number: int) -> Answer:
    """One request of the load: its tokens are the full model's, whoever computes them."""
    unsure = {"threshold": 1.0} if mode == "collaborative" else {}
    most = {"max_new_tokens": 48, "min_new_tokens": 48}
    return await ask(client, PROMPTS[number], mode=mode, codec="fp32", **most, **unsure)


@pytest.mark.timeout(900)
async def test_replicas_that_stop_one_by_one_cost_no_request_and_change_no_token(
    edge: Service, replicas: list[Service]
) -> None:
    before: dict[tuple[str, int], list[int]] = {}
    outcomes: Counter[str] = Counter()
    over = False

    async def user(client: httpx.AsyncClient, mode: str) -> None:
        number = 0
        while not over:
            answer = await asked(client, mode, number % 2)
            assert not answer["details"]["degraded"], edge.tail()
            assert ids_of(answer) == before[mode, number % 2]
            outcomes[mode] += 1
            number += 1
            await asyncio.sleep(0.3)

    async with httpx.AsyncClient(base_url=edge.url, timeout=2 * PATIENCE) as client:
        for mode in MODES:
            for number in range(2):
                before[mode, number] = ids_of(await asked(client, mode, number))
        users = [asyncio.create_task(user(client, mode)) for mode in MODES]
        try:
            for cloud in replicas:
                assert await asyncio.to_thread(cloud.stop) == 0, cloud.tail()
                cloud.start()
                # Beside the load: torch alone takes its time to import.
                await asyncio.to_thread(cloud.wait_until_ready, seconds=3 * PATIENCE)
            served = outcomes.copy()
        finally:
            over = True
            await asyncio.gather(*users)
    assert all(served[mode] for mode in MODES), served
    told = samples(edge.metrics())
    assert told["tandem_session_moves_total"] > 0
    ended = {name for name, value in told.items() if "cloud_requests_total" in name and value}
    assert {name.partition('outcome="')[2].rstrip('"}') for name in ended} <= WORDS, ended


def samples(text: str) -> dict[str, float]:
    """The values of `/metrics`, by name and labels."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
