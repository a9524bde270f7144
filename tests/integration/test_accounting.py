"""How requests that end badly are counted: by what went wrong, and not as users who left."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.edge.engine import EdgeEngine
from shared.errors import OutOfMemory
from tests.support.apps import edge_client


async def _counted(edge: httpx.AsyncClient, name: str) -> dict[str, float]:
    """A counter of the edge by its reason, as far as it counted anything."""
    text = (await edge.get("/metrics")).text
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.value
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_breaks_is_an_internal_failure(
    monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("the device fell off the bus")

    monkeypatch.setattr(EdgeEngine, "step", broken)
    async with edge_client("") as edge:
        answer = await edge.post("/generate", json={"inputs": "Once", "stream": stream})
        assert answer.status_code == 500
        assert await _counted(edge, "tandem_request_failures_total") == {"internal": 1}


async def test_running_out_of_kv_is_a_rejection_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*arguments: object) -> None:
        raise OutOfMemory("no room for KV")

    monkeypatch.setattr(EdgeEngine, "step", full)
    async with edge_client("") as edge:
        answer = await edge.post("/generate", json={"inputs": "Once"})
        assert answer.status_code == 503
        for name in ("tandem_request_failures_total", "tandem_admission_rejections_total"):
            assert await _counted(edge, name) == {"out_of_memory": 1}


async def test_the_link_is_not_up_before_the_cloud_was_seen() -> None:
    async with edge_client("http://127.0.0.1:9") as edge:
        text = (await edge.get("/metrics")).text
    assert "\ntandem_link_up 0.0\n" in text
