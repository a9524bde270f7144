"""The event loop only waits: a service says that it is alive while its model computes."""

import asyncio
import math
import statistics
import time

import httpx
import pytest

from services.cloud.engine import CloudEngine
from services.edge.engine import EdgeEngine
from tests.support.apps import PATIENCE, ask, pair
from tests.support.steps import watched

STEP_SECONDS = 1.5
ALIVE_WITHIN = 0.1


@pytest.mark.parametrize("side", ["edge", "cloud"])
async def test_a_service_is_alive_within_100_ms_while_a_long_step_runs(side: str) -> None:
    engine = EdgeEngine if side == "edge" else CloudEngine
    async with pair() as services:
        client = services.edge if side == "edge" else services.cloud
        with watched(engine, slowed_by=STEP_SECONDS) as steps:
            answer = asyncio.create_task(ask(services.edge, "Once", mode="split", max_new_tokens=1))
            assert await asyncio.to_thread(steps.begun.wait, PATIENCE)
            waits = [await _seconds_to_be_alive(client) for _ in range(5)]
            within_one_step = len(steps.spans) == 1 and steps.spans[0][1] == math.inf
            await answer
    assert within_one_step, "the answers came while the engine was at it"
    assert statistics.median(waits) < ALIVE_WITHIN, waits
    assert steps.spans[0][1] - steps.spans[0][0] >= STEP_SECONDS


async def _seconds_to_be_alive(client: httpx.AsyncClient) -> float:
    began = time.monotonic()
    response = await client.get("/healthz")
    assert response.json() == {"status": "alive"}
    return time.monotonic() - began
