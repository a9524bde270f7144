"""The event loop only waits: a service says that it is alive while its model computes."""

import asyncio
import statistics
import time
from itertools import pairwise

import httpx
import pytest

from services.cloud.engine import CloudEngine
from services.edge.engine import EdgeEngine
from tests.support.apps import ask, pair
from tests.support.steps import watched

STEP_SECONDS = 4.0
PAUSE = 0.02
ALIVE_WITHIN = 0.1


@pytest.mark.parametrize("side", ["edge", "cloud"])
async def test_a_service_is_alive_within_100_ms_while_a_long_step_runs(side: str) -> None:
    engine = EdgeEngine if side == "edge" else CloudEngine
    async with pair() as services:
        client = services.edge if side == "edge" else services.cloud
        with watched(engine, slowed_by=STEP_SECONDS) as steps:
            answer = asyncio.create_task(ask(services.edge, "Once", mode="split", max_new_tokens=1))
            signs = await _signs_of_life(client, answer)
    ((began, ended),) = steps.spans
    assert ended - began >= STEP_SECONDS
    during = [began, *(sign for sign in signs if began < sign < ended), ended]
    silences = [later - sign for sign, later in pairwise(during)]
    assert statistics.median(silences) < PAUSE + ALIVE_WITHIN
    assert max(silences) < 0.9 * STEP_SECONDS, "a busy machine stumbles; a blocked loop is silent"


async def _signs_of_life(client: httpx.AsyncClient, answer: "asyncio.Task[object]") -> list[float]:
    """When `/healthz` had answered, asked again and again until the answer is there."""
    signs = []
    while not answer.done():
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        signs.append(time.monotonic())
        await asyncio.sleep(PAUSE)
    await answer
    return signs
