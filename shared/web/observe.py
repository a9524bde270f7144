"""The routes every service answers alike: `/healthz` (alive), `/readyz` (able to serve) and
`/metrics`.
"""

from collections.abc import Callable

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import JSONResponse, Response


def observation_routes(
    registry: CollectorRegistry, readiness: Callable[[], tuple[bool, dict[str, object]]]
) -> APIRouter:
    """Return the routes; `readiness` says whether the service can serve, and why."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz")
    async def readyz() -> Response:
        ready, details = readiness()
        body = {"status": "ready" if ready else "unavailable", **details}
        return JSONResponse(body, 200 if ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
