"""Both services as ASGI applications in this process, without sockets unless a test asks for them.

What needs processes of its own is in `tests.support.services`.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from services.cloud import main as cloud_main
from services.cloud.settings import Settings as CloudSettings
from services.edge import main as edge_main
from services.edge.settings import Settings as EdgeSettings
from shared.model import SpanModel
from tests.support.reference import bundles, loaded

Answer = dict[str, Any]

PATIENCE = 120.0  # seconds for what takes milliseconds on an idle machine


@dataclass(frozen=True, slots=True)
class Pair:
    """An edge with its cloud, as clients."""

    edge: httpx.AsyncClient
    cloud: httpx.AsyncClient


def cloud_app(
    bundle: Path | None = None, model: SpanModel | None = None, **settings: Any
) -> FastAPI:
    """A cloud, of the reference model unless told otherwise."""
    folder = bundle or bundles().cloud
    return cloud_main.create_app(
        CloudSettings(bundle=folder, threads=1, **settings), model or loaded(folder)
    )


def edge_app(
    cloud: ASGIApp | str,
    bundle: Path | None = None,
    model: SpanModel | None = None,
    **settings: Any,
) -> FastAPI:
    """An edge whose cloud is an application or the URL of one ("": none); it audits nothing unless
    told to, so that the same requests cost the same.
    """
    folder = bundle or bundles().edge
    url = cloud if isinstance(cloud, str) else "http://cloud"
    return edge_main.create_app(
        EdgeSettings(bundle=folder, threads=1, cloud_url=url, **{"audit_share": 0.0, **settings}),
        model or loaded(folder),
        cloud_transport=None if isinstance(cloud, str) else httpx.ASGITransport(cloud),
    )


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[FastAPI]:
    """Run an application's lifespan."""
    async with app.router.lifespan_context(app):
        yield app


@asynccontextmanager
async def edge_client(*given: Any, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running edge; takes what `edge_app` takes."""
    async with running(edge_app(*given, **settings)) as app, client_of(app) as client:
        yield client


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client that calls the application itself and renders its failures as the server would."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://app", timeout=PATIENCE)


@asynccontextmanager
async def pair(**edge_settings: Any) -> AsyncIterator[Pair]:
    """Edge and cloud of the reference model, once the edge has seen its cloud."""
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(cloud_app()))
        edge = await stack.enter_async_context(edge_client(app, **edge_settings))
        cloud = await stack.enter_async_context(client_of(app))
        await until_cloud_is("reachable", edge)
        yield Pair(edge, cloud)


async def until_cloud_is(state: str, edge: httpx.AsyncClient) -> dict[str, Any]:
    """Wait until the edge says this of its cloud; returns what it says of itself."""
    deadline = time.monotonic() + PATIENCE
    while (seen := (await edge.get("/readyz")).json())["cloud"] != state:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.02)
    return dict(seen)


async def ask(edge: httpx.AsyncClient, inputs: str, **parameters: Any) -> Answer:
    """An answer with its details; any refusal fails the test."""
    body = {"inputs": inputs, "parameters": {"details": True, **parameters}}
    response = await edge.post("/generate", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def ids_of(answer: Answer) -> list[int]:
    """The ids of an answer's tokens."""
    return [token["id"] for token in answer["details"]["tokens"]]


def sources_of(answer: Answer) -> set[str]:
    """Where an answer's tokens came from."""
    return {token["source"] for token in answer["details"]["tokens"]}
