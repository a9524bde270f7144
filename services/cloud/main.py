"""The cloud service, put together: settings are read here, and only here, and handed down as
plain values.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.cloud.completion import Completion
from services.cloud.contexts import (
    ContextStore,
    DurableContexts,
    Form,
    Guard,
    MemoryContexts,
    RedisLogs,
    seal_of,
)
from services.cloud.engine import CloudEngine, Pass
from services.cloud.metrics import CloudMetrics
from services.cloud.routes import RULES, Surface
from services.cloud.settings import Settings
from services.cloud.verifier import Verifier
from services.cloud.welcome import Welcome
from shared import __version__, environment, tracing
from shared.access import Doorkeeper, limits_of, open_door
from shared.access.limiter import Limiter
from shared.decoding.sampling import Choice
from shared.errors import BadModel
from shared.model import SpanModel, probe_tau
from shared.protocol.version import PROTOCOL_VERSION
from shared.runtime.lifecycle import Lifecycle
from shared.runtime.model_thread import ModelThread
from shared.runtime.schedule import Schedule
from shared.web import errors, serving
from shared.web.access import Access
from shared.web.described import describe
from shared.web.direct import Direct
from shared.web.metrics import Gauges
from shared.web.middleware import BodyLimit, RequestId
from shared.web.observe import observation_routes
from shared.web.traced import Traced, flushed

SWEEP_SECONDS = 5.0


def create_app(settings: Settings, model: SpanModel, lifecycle: Lifecycle | None = None) -> FastAPI:
    """Return the cloud's application around a loaded model; its thread lives as long as the
    app's lifespan.
    """
    lifecycle = lifecycle or Lifecycle()
    manifest = model.manifest
    if manifest is None or manifest.role != "cloud":
        raise BadModel("the cloud serves a cloud bundle; make one with `tandem partition`")
    manifest.require_protocol(PROTOCOL_VERSION)
    doorkeeper = open_door(settings, usual={"sessions", "metrics"}, prefix="TANDEM_CLOUD_")
    metrics = CloudMetrics(registry := CollectorRegistry())
    # The store makes room before a pass; this is what no mistake in its books gets past.
    model.kv_budget_bytes = settings.context_bytes
    engine = CloudEngine(model)
    thread = _thread(engine, settings, metrics)
    welcome = Welcome(manifest.fingerprint, model.span, model.shape)
    store = _store(settings, _memory(settings, model, thread, metrics), welcome, metrics)
    metrics.read_from(
        Gauges(
            waiting=lambda: thread.waiting,
            waiting_as=lambda priority: thread.waiting_as(priority),
            # What is kept for prompts to come is as good as free.
            kv_bytes=lambda: max(0, model.kv_bytes - store.prefixes.nbytes),
            kv_budget_bytes=settings.context_bytes,
        )
    )
    tau = probe_tau(model)
    patience = settings.reorder_seconds
    verifier = Verifier(store, engine, thread, metrics, manifest.compute_format, tau, patience)
    completion = Completion(
        welcome, store, engine, thread, verifier, metrics, patience, lifecycle=lifecycle
    )
    metrics.show(
        contexts=lambda: len(store),
        nbytes=lambda: store.nbytes,
        prefix_bytes=lambda: store.prefixes.nbytes,
        budget_bytes=settings.context_bytes,
    )
    metrics.tau.set(tau)
    tracer = _tracer(settings, metrics)
    shown = _shown(welcome, manifest.compute_format)
    told = {"version": __version__, "model": manifest.model, **shown}
    metrics.build.info({key: str(value) for key, value in told.items()})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pause = min(SWEEP_SECONDS, settings.context_ttl_seconds / 2)
        async with flushed(tracer, lifecycle):
            with thread:
                async with _swept(store, pause):
                    yield
                await store.aclose()

    app = FastAPI(title="Tandem cloud", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.metrics = metrics
    surface = Surface(completion, metrics, shown, settings.max_body_bytes, _limiter(settings))
    _surround(app, settings, doorkeeper, surface, tracer=tracer, model=manifest.model)
    app.include_router(observation_routes(registry, lifecycle, lambda: shown))
    app.include_router(surface.routes())
    return app


def _limiter(settings: Settings) -> Limiter:
    own = settings.requests_per_minute, settings.tokens_per_minute, settings.concurrent
    return Limiter(limits_of(*own))


def _surround(
    app: FastAPI,
    settings: Settings,
    doorkeeper: Doorkeeper,
    surface: Surface,
    *,
    tracer: tracing.Tracer | None,
    model: str,
) -> None:
    """Put around an application how it answers errors, and its middleware, innermost first; and
    say so in its document.
    """
    errors.install(app)
    app.add_middleware(Direct, posts=surface.posts())
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    if tracer is not None:
        told = {"gen_ai.request.model": model}
        app.add_middleware(Traced, tracer=tracer, paths=surface.posts(), attributes=told)
    app.add_middleware(Access, doorkeeper=doorkeeper, rules=RULES)
    app.add_middleware(RequestId)
    describe(app, RULES)


def _store(
    settings: Settings, memory: MemoryContexts, welcome: Welcome, metrics: CloudMetrics
) -> ContextStore:
    """Contexts in memory, and where a store is named, their logs in it."""
    if not settings.store_url:
        return memory
    logs = RedisLogs(
        settings.store_url,
        ttl_seconds=settings.context_ttl_seconds,
        bytes_per_client=settings.store_bytes_per_client,
    )
    guard = Guard(logs, settings.store_timeout_seconds, metrics)
    shape, most = welcome.shape, settings.store_bytes_per_client
    form = Form(shape.hidden, shape.vocab, welcome.check_opening, most)
    return DurableContexts(memory, guard, seal_of(settings.store_key), form)


def _memory(
    settings: Settings,
    model: SpanModel,
    thread: ModelThread[Pass, tuple[Choice, ...]],
    metrics: CloudMetrics,
) -> MemoryContexts:
    return MemoryContexts(
        hidden=model.shape.hidden,
        budget_bytes=settings.context_bytes,
        max_contexts=settings.max_contexts,
        ttl_seconds=settings.context_ttl_seconds,
        release=lambda cache: thread.post(cache.close),
        prefix_bytes=settings.prefix_bytes,
        share_per_owner=settings.share_per_owner,
        on_change=metrics.changed,
    )


def _tracer(settings: Settings, metrics: CloudMetrics) -> tracing.Tracer | None:
    if not settings.traces_url:
        return None
    return tracing.tracer_to(
        settings.traces_url,
        share=settings.traces_share,
        resource=tracing.resource_of("tandem-cloud", socket.gethostname(), __version__),
        dropped=metrics.spans_dropped.inc,
    )


def _thread(
    engine: CloudEngine, settings: Settings, metrics: CloudMetrics
) -> ModelThread[Pass, tuple[Choice, ...]]:
    return ModelThread(
        engine,
        name="cloud-engine",
        schedule=Schedule(
            settings.max_step_rows,
            stretch=settings.step_stretch,
            beside=settings.beside_emergency_rows,
            patience=settings.patience_seconds,
        ),
        max_waiting=settings.max_waiting,
        max_waiting_rows=settings.max_waiting_rows,
        on_step=metrics.stepped,
        on_start=metrics.started,
    )


def main() -> None:
    """Serve until SIGTERM; process 1 of the cloud image."""
    settings = environment.read(Settings)
    serving.run(settings, partial(create_app, settings))


@asynccontextmanager
async def _swept(store: ContextStore, pause: float) -> AsyncIterator[None]:
    """Have the store swept every `pause` seconds."""
    sweeper = asyncio.create_task(_sweep(store, pause))
    yield
    sweeper.cancel()
    with suppress(asyncio.CancelledError):
        await sweeper


async def _sweep(store: ContextStore, pause: float) -> None:
    while True:
        await asyncio.sleep(pause)
        store.sweep()


def _shown(welcome: Welcome, compute_format: str) -> dict[str, object]:
    return {
        "protocol_version": PROTOCOL_VERSION,
        "fingerprint": welcome.fingerprint,
        "depth": welcome.span.depth,
        "span": [welcome.span.start, welcome.span.stop],
        "compute_format": compute_format,
        "modes": list(welcome.modes),
        "codecs": ["fp32", "fp16", "int8"],
    }
