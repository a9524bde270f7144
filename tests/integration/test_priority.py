"""`priority: emergency` over both services: who may ask, what it passes by, and that those it parks
go on as if nothing had been.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.apps import (
    Answer,
    Pair,
    client_of,
    cloud_app,
    edge_client,
    pair,
    running,
    until_cloud_is,
)
from tests.support.keys import bearer, written_keys
from tests.support.prompts import prompts
from tests.support.reference import text
from tests.support.services import new_services
from tests.support.size import Size
from tests.support.wishes import Wish, require_same

KEY = "kept-in-the-ward"
BEARER = bearer(KEY)
Keys = dict[str, Any]
MODES = ("standalone", "collaborative", "verified", "cloud", "split")
# A text of which emergencies ask for more than others do, so that they are there all the time.
URGENT_TOKENS = 40


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Settings of an edge with a key that may overtake, beside those who come without one."""
    file = written_keys(tmp_path / "keys.toml", {KEY: 'scopes = ["generate", "priority"]'})
    return {"keys_file": file, "without_key": "generate,metrics"}


def body(prompt: str, **parameters: Any) -> dict[str, Any]:
    return {"inputs": prompt, "parameters": {"details": True, **parameters}}


def counted(exposed: str, name: str, **labels: str) -> float:
    """A sample's value."""
    return next(
        sample.value
        for family in text_string_to_metric_families(exposed)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )


@asynccontextmanager
async def sparing_pair(keys: Keys) -> AsyncIterator[Pair]:
    """A pair that gives others a row beside an emergency, however long they wait."""
    sparing: dict[str, Any] = {"beside_emergency_rows": 1, "patience_seconds": 1e6}
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(cloud_app(**sparing)))
        edge = await stack.enter_async_context(edge_client(app, **keys, **sparing))
        cloud = await stack.enter_async_context(client_of(app))
        await until_cloud_is("reachable", edge)
        yield Pair(edge, cloud)


async def test_without_a_key_that_may_ask_for_it_it_is_refused(keys: Keys) -> None:
    async with pair(**keys) as services:
        asked = body("Once", priority="emergency")
        refused = await services.edge.post("/generate", json=asked)
        metrics = (await services.edge.get("/metrics")).text
        normal = await services.edge.post("/generate", json=body("Once"))
    assert refused.status_code == 403
    assert refused.json()["error_type"] == "forbidden"
    assert refused.json()["field"] == "parameters.priority"
    assert counted(metrics, "tandem_request_failures_total", reason="forbidden") == 1
    assert normal.status_code == 200


async def test_another_priority_is_unknown(keys: Keys) -> None:
    async with pair(**keys) as services:
        asked = body("Once", priority="urgent")
        refused = await services.edge.post("/generate", json=asked, headers=BEARER)
    assert refused.status_code == 422
    assert refused.json()["field"] == "parameters.priority"
    assert "'normal' or 'emergency'" in refused.json()["error"]


@pytest.mark.parametrize("mode", MODES)
async def test_it_is_one_in_every_engine_it_passes(keys: Keys, mode: str) -> None:
    async with pair(**keys) as services:
        asked = body("Once upon a time", mode=mode, priority="emergency", max_new_tokens=8)
        given = {"threshold": 1.0} if mode == "collaborative" else {}
        asked["parameters"] |= given
        answer = await services.edge.post("/generate", json=asked, headers=BEARER)
        assert answer.status_code == 200, answer.text
        seen = [(await side.get("/metrics")).text for side in (services.edge, services.cloud)]
    passes = {"standalone": [True, False], "cloud": [False, True]}.get(mode, [True, True])
    for exposed, passed in zip(seen, passes, strict=True):
        assert (counted(exposed, "tandem_rows_total", priority="emergency") > 0) == passed
        assert counted(exposed, "tandem_rows_total", priority="normal") == 0
        name = "tandem_num_requests_waiting_by_priority"
        assert counted(exposed, name, priority="emergency") == 0


async def asked_for(edge: httpx.AsyncClient, wish: Wish) -> Answer:
    response = await edge.post("/generate", json=body(wish.prompt, **wish.parameters))
    assert response.status_code == 200, response.text
    return dict(response.json())


async def emergencies(edge: httpx.AsyncClient, mode: str, until: asyncio.Event) -> int:
    """Ask for one after the other."""
    count = 0
    while not until.is_set():
        lengths = {"max_new_tokens": URGENT_TOKENS, "min_new_tokens": URGENT_TOKENS}
        asked = body("Help is needed here", mode=mode, priority="emergency", **lengths)
        response = await edge.post("/generate", json=asked, headers=BEARER)
        assert response.status_code == 200, response.text
        count += 1
    return count


async def beside_emergencies(services: Pair, wishes: Sequence[Wish], mode: str) -> list[Answer]:
    """The answers to wishes asked for at once, while there is always an emergency."""
    done = asyncio.Event()
    urgent = asyncio.create_task(emergencies(services.edge, mode, done))
    await asyncio.sleep(0.05)
    try:
        return await asyncio.gather(*(asked_for(services.edge, wish) for wish in wishes))
    finally:
        done.set()
        assert await urgent > 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_text_that_was_parked_is_the_one_that_was_not(
    keys: Keys, mode: str, size: Size
) -> None:
    texts, tokens = size.pick(short=4, long=6), size.pick(short=12, long=24)
    given = {"mode": mode, "codec": "fp32", "max_new_tokens": tokens}
    drawn = {"temperature": 0.8, "top_p": 0.95, "seed": 3}
    wishes = [
        Wish(prompt, given | (drawn if n % 2 else {}))
        for n, prompt in enumerate(prompts(text(), texts))
    ]
    async with pair() as services:
        alone = [await asked_for(services.edge, wish) for wish in wishes]
    async with sparing_pair(keys) as services:
        beside = await beside_emergencies(services, wishes, mode)
        seen = [(await side.get("/metrics")).text for side in (services.edge, services.cloud)]
    assert sum(counted(exposed, "tandem_parked_steps_total") for exposed in seen) > tokens
    ties = [
        require_same(wish, one, other)
        for wish, one, other in zip(wishes, alone, beside, strict=True)
    ]
    assert ties.count(None) >= len(wishes) - 1


async def test_an_emergency_finds_room_where_others_find_none(keys: Keys) -> None:
    async with edge_client("", max_requests=2, **keys) as edge:
        long = body("Once", max_new_tokens=400, min_new_tokens=400)
        others = [asyncio.create_task(edge.post("/generate", json=long)) for _ in range(2)]
        await asyncio.sleep(0.2)
        short = body("Once", max_new_tokens=2)
        assert (await edge.post("/generate", json=short)).status_code == 503
        short["parameters"]["priority"] = "emergency"
        assert (await edge.post("/generate", json=short, headers=BEARER)).status_code == 200
        assert [each.status_code for each in await asyncio.gather(*others)] == [200, 200]


def test_keys_are_in_no_log(tmp_path: Path, keys: Keys) -> None:
    services = new_services(
        tmp_path, log_level="DEBUG", **{name: str(value) for name, value in keys.items()}
    )
    try:
        services.start()
        for key, wanted in ((KEY, 200), ("a-stranger's-key", 401)):
            asked = body("Once", priority="emergency", max_new_tokens=2, mode="split")
            headers = {"authorization": f"Bearer {key}"}
            url = f"{services.edge.url}/generate"
            assert httpx.post(url, json=asked, headers=headers, timeout=30).status_code == wanted
        assert services.edge.stop() == services.cloud.stop() == 0
    finally:
        services.edge.abandon()
        services.cloud.abandon()
    logs = services.edge.log.read_text() + services.cloud.log.read_text()
    assert "serving" in logs
    for secret in (KEY, "a-stranger's-key", sha256(KEY.encode()).hexdigest()):
        assert secret not in logs
