"""The routes every service answers alike: `/healthz` (alive), `/readyz` (able to serve) and
`/metrics`; and who may ask for them.
"""

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response

from shared.runtime.lifecycle import Lifecycle
from shared.web.access import PUBLIC, Rules, caller_of
from shared.web.described import Refusal

RULES: Rules = {
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): "metrics",
}

_TEXT = {"schema": {"type": "string"}}
_EXPOSITION = {"description": "As Prometheus reads it.", "content": {CONTENT_TYPE_LATEST: _TEXT}}


class Readiness(BaseModel):
    """Whether a service is ready; more of it to those who came in."""

    model_config = ConfigDict(extra="allow")

    status: Literal["ready", "draining"]


_READY: dict[int | str, dict[str, Any]] = {
    200: {"model": Readiness},
    503: {"model": Readiness | Refusal, "description": "This service is about to end, or full."},
}


def observation_routes(
    registry: CollectorRegistry, lifecycle: Lifecycle, details: Callable[[], dict[str, object]]
) -> APIRouter:
    """Return the routes; `details` says what the service serves, to those who came in. One that is
    leaving is alive, and not ready.
    """
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", response_model=None, responses=_READY)
    async def readyz(request: Request) -> Response:
        leaving = lifecycle.draining
        body: dict[str, object] = {"status": "draining" if leaving else "ready"}
        if caller_of(request).came_in:
            body |= details()
        return JSONResponse(body, 503 if leaving else 200)

    @router.get("/metrics", responses={200: _EXPOSITION}, response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
