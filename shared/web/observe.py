"""The routes every service answers alike: `/healthz` (alive), `/readyz` (able to serve) and
`/metrics`.
"""

from collections.abc import Callable

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import JSONResponse, Response

from shared.runtime.lifecycle import Lifecycle


def observation_routes(
    registry: CollectorRegistry, lifecycle: Lifecycle, details: Callable[[], dict[str, object]]
) -> APIRouter:
    """Return the routes; `details` says what the service serves. One that is leaving is alive, and
    not ready.
    """
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz() -> Response:
        leaving = lifecycle.draining
        body = {"status": "draining" if leaving else "ready", **details()}
        return JSONResponse(body, 503 if leaving else 200)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
