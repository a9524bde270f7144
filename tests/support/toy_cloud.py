"""The real cloud around the toy model, as an ASGI application: routes, completion and contexts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.cloud.completion import Completion
from services.cloud.contexts import (
    ContextStore,
    DurableContexts,
    Form,
    Guard,
    MemoryContexts,
    seal_of,
)
from services.cloud.contexts.log_store import LogStore
from services.cloud.engine import CloudEngine
from services.cloud.metrics import CloudMetrics
from services.cloud.routes import Surface
from services.cloud.verifier import Verifier
from services.cloud.welcome import Welcome
from shared.model import LayerSpan, SpanModel
from shared.runtime.breaker import Breaker
from shared.runtime.model_thread import ModelThread
from shared.runtime.schedule import Schedule
from shared.web import errors
from tests.support.toy_model import DEPTH, VOCABULARY, WIDTH, ToyModel

FINGERPRINT = "toy"
LIMIT = 1 << 20


@dataclass
class ToyCloud:
    """A cloud holding the whole toy model, as an ASGI application."""

    app: FastAPI
    store: ContextStore
    memory: MemoryContexts
    metrics: CloudMetrics

    def forget(self) -> None:
        """Lose every session, as a restart does."""
        for context in list(self.memory._contexts.values()):
            self.memory.forget(context.session, context.revision)
        self.memory._closed.clear()


@asynccontextmanager
async def toy_cloud(
    *,
    budget_bytes: int = 1 << 20,
    max_step_rows: int = 5,
    logs: LogStore | None = None,
    key: str = "",
) -> AsyncIterator[ToyCloud]:
    """Run a cloud; a small row budget makes every prompt a chunked one. With `logs` its contexts
    outlast it.
    """
    model = ToyModel(LayerSpan(0, DEPTH, DEPTH))
    engine = CloudEngine(cast(SpanModel, model))
    metrics = CloudMetrics(CollectorRegistry())
    with ModelThread(engine, "toy-cloud", Schedule(max_step_rows), 64) as thread:
        memory = MemoryContexts(
            hidden=WIDTH,
            budget_bytes=budget_bytes,
            max_contexts=8,
            ttl_seconds=60,
            release=lambda cache: thread.post(cache.close),
        )
        welcome = Welcome(FINGERPRINT, model.span, model.shape)
        store: ContextStore = memory
        if logs is not None:
            form = Form(WIDTH, VOCABULARY, welcome.check_opening, 1 << 20)
            # It is asked again at once, however often it was away.
            guard = Guard(logs, 5.0, metrics, Breaker(0.0, 0.0))
            store = DurableContexts(memory, guard, seal_of(key), form)
        verifier = Verifier(store, engine, thread, metrics, "fp32", tau=0.0, reorder_seconds=0.0)
        completion = Completion(
            welcome, store, engine, thread, verifier, metrics, reorder_seconds=0.0
        )
        app = FastAPI()
        errors.install(app)
        app.include_router(Surface(completion, metrics, {}, LIMIT).routes())
        yield ToyCloud(app, store, memory, metrics)
        await completion.background.drain(60)
