"""Health, readiness and metrics as every service answers them."""

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter

from shared.access import Doorkeeper
from shared.runtime.lifecycle import Lifecycle
from shared.web.access import Access
from shared.web.observe import RULES, observation_routes


@pytest.mark.parametrize(
    ("leaving", "status", "said"), [(False, 200, "ready"), (True, 503, "draining")]
)
async def test_readiness_is_a_status_with_what_is_served(
    *, leaving: bool, status: int, said: str
) -> None:
    lifecycle = Lifecycle()
    if leaving:
        lifecycle.leave()
    registry = CollectorRegistry()
    Counter("tandem_things", "Things", registry=registry).inc(3)
    app = FastAPI()
    app.include_router(observation_routes(registry, lifecycle, lambda: {"cloud": "refused"}))
    door = Doorkeeper(strangers=frozenset({"metrics"}))
    transport = httpx.ASGITransport(Access(app, door, RULES))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        readiness = await http.get("/readyz")
        assert (readiness.status_code, readiness.json()) == (
            status,
            {"status": said, "cloud": "refused"},
        )
        alive = await http.get("/healthz")
        assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
        assert "tandem_things_total 3.0" in (await http.get("/metrics")).text
