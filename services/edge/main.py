"""The edge gateway, put together: settings are read here, and only here, and handed down as
plain values.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.edge.admission import Admitted
from services.edge.answering import Answering, Defaults, Identity
from services.edge.audit import Auditor
from services.edge.chances import Chances, untuned_chances
from services.edge.connecting import connect, connected
from services.edge.controller import Controller, Measured
from services.edge.engine import EdgeEngine, EdgeResult, EdgeWork
from services.edge.exit_rules import RuleBook, exit_rules
from services.edge.load import Load
from services.edge.metrics import EdgeMetrics
from services.edge.policy import Pacing
from services.edge.quality import QualityMetrics
from services.edge.recording import Recorder
from services.edge.routes import RULES, Surface
from services.edge.settings import Settings
from services.edge.text import TextCodec
from shared import __version__, environment, tracing
from shared.access import Doorkeeper, limits_of, open_door
from shared.access.limiter import Limiter
from shared.errors import BadModel
from shared.model import Manifest, SpanModel
from shared.protocol.version import PROTOCOL_VERSION
from shared.runtime.lifecycle import Lifecycle
from shared.runtime.model_thread import ModelThread
from shared.runtime.schedule import Schedule
from shared.web import errors, serving
from shared.web.access import Access
from shared.web.described import describe
from shared.web.metrics import Gauges
from shared.web.middleware import BodyLimit, RequestId
from shared.web.observe import observation_routes
from shared.web.traced import Traced, flushed


def create_app(
    settings: Settings,
    model: SpanModel,
    lifecycle: Lifecycle | None = None,
    *,
    cloud_transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """Return the edge's application around a loaded model; `cloud_transport` stands in for the
    network in tests.
    """
    lifecycle = lifecycle or Lifecycle(grace_seconds=settings.grace_seconds)
    manifest, split = _manifest_of(model)
    doorkeeper = open_door(settings, usual={"generate", "metrics"}, prefix="TANDEM_EDGE_")
    registry = CollectorRegistry()
    metrics = EdgeMetrics(registry)
    model.kv_budget_bytes = settings.kv_bytes
    engine = EdgeEngine(model, split, max_rows=settings.max_step_rows)
    thread = _thread(engine, settings, metrics)
    cloud = connect(settings, cloud_transport)
    exits = _exit_rules(settings, model, manifest)
    recorder = _recorder(settings, manifest, sorted(model.exits), metrics.quality)
    answering = Answering(
        text=TextCodec(settings.bundle),
        engine=engine,
        thread=thread,
        cloud=cloud.side if cloud else None,
        identity=Identity(manifest.fingerprint, manifest.compute_format, model.shape.max_positions),
        defaults=Defaults(settings.mode if cloud else "standalone", settings.codec),
        metrics=metrics,
        load=_load(settings, model, lifecycle),
        controller=_controller(settings, manifest),
        chances={kind: _chances(model, split, kind) for kind in ("greedy", "sampled")},
        exits=exits,
        auditor=_auditor(settings, exits, lifecycle, metrics.quality, recorder),
    )
    tracer = _tracer(settings, metrics)
    link = cloud.side.link if cloud else None
    serving = cloud.side.replicas.count_serving if cloud else None
    metrics.show(exits=sorted(model.exits), link=link, serving=serving)
    shown = _shown(settings, manifest)
    metrics.build.info({k: str(v) for k, v in {**shown, "modes": list(answering.modes)}.items()})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(flushed(tracer, lifecycle))
            stack.enter_context(thread)
            if cloud is not None:
                await stack.enter_async_context(connected(cloud, manifest, settings, lifecycle))
            yield

    app = FastAPI(title="Tandem edge", lifespan=lifespan)
    app.state.metrics = metrics
    _surround(app, settings, doorkeeper, answering, tracer=tracer, model=manifest.model)
    app.include_router(observation_routes(registry, lifecycle, lambda: shown | _state(answering)))
    app.include_router(Surface(answering, settings.heartbeat_seconds).routes())
    return app


def _surround(
    app: FastAPI,
    settings: Settings,
    doorkeeper: Doorkeeper,
    answering: Answering,
    *,
    tracer: tracing.Tracer | None,
    model: str,
) -> None:
    """Put around an application how it answers errors, and its middleware, innermost first; and
    say so in its document.
    """
    errors.install(app)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    own = settings.requests_per_minute, settings.tokens_per_minute, settings.concurrent
    limiter, load = Limiter(limits_of(*own)), answering.load
    app.add_middleware(Admitted, limiter=limiter, load=load, metrics=answering.metrics)
    if tracer is not None:
        told = {"gen_ai.request.model": model}
        app.add_middleware(Traced, tracer=tracer, paths=["/generate"], attributes=told)
    app.add_middleware(Access, doorkeeper=doorkeeper, rules=RULES)
    app.add_middleware(RequestId)
    describe(app, RULES)


def main() -> None:
    """Serve until SIGTERM; process 1 of the edge image."""
    settings = environment.read(Settings)
    serving.run(settings, partial(create_app, settings))


def _manifest_of(model: SpanModel) -> tuple[Manifest, int]:
    """What an edge bundle says of itself, and its split."""
    manifest = model.manifest
    if manifest is None or manifest.role != "edge" or manifest.split is None:
        raise BadModel("the edge serves an edge bundle; make one with `tandem partition`")
    manifest.require_protocol(PROTOCOL_VERSION)
    return manifest, manifest.split


def _load(settings: Settings, model: SpanModel, lifecycle: Lifecycle) -> Load:
    tokens = settings.max_tokens or settings.kv_bytes // model.kv_token_bytes
    return Load(settings.max_requests, lifecycle, tokens)


def _controller(settings: Settings, manifest: Manifest) -> Controller:
    base = Pacing(
        width=settings.draft_width,
        floor=settings.draft_floor,
        doubt=settings.draft_doubt,
        longest=settings.draft_longest,
        most=settings.draft_most,
        sure=settings.draft_sure,
    )
    return Controller(
        base=base,
        fixed=None if settings.draft_plan == "auto" else settings.draft_plan,
        price=settings.cloud_price,
        ahead=settings.draft_ahead,
        upper=1 - (manifest.split or 0) / manifest.depth,
        seen=Measured(),
    )


def _exit_rules(settings: Settings, model: SpanModel, manifest: Manifest) -> RuleBook:
    return exit_rules(
        settings.bundle,
        manifest.fingerprint,
        {layer: info.threshold for layer, info in model.exits.items()},
        policy=settings.exit_policy,
        numbers=settings.policy_numbers,
        max_disagreement=settings.max_disagreement,
    )


def _auditor(
    settings: Settings,
    exits: RuleBook,
    lifecycle: Lifecycle,
    quality: QualityMetrics,
    recorder: Recorder | None,
) -> Auditor:
    """What knows how often kept tokens are not the full model's. Where it looks, targets are held
    by what it sees.
    """
    auditor = Auditor(settings.audit_share, lifecycle, quality, recorder=recorder)
    if settings.audit_share:
        exits.hold(auditor.level)
    quality.target.set(settings.max_disagreement or 0.0)
    quality.show(auditor.bound, lambda: exits.in_force)
    return auditor


def _recorder(
    settings: Settings, manifest: Manifest, exits: list[int], quality: QualityMetrics
) -> Recorder | None:
    if settings.exit_traces is None:
        return None
    limit = settings.exit_traces_bytes
    recorder = Recorder(
        settings.exit_traces, limit, manifest.fingerprint, exits, quality, manifest.exits_sha256
    )
    recorder.open()
    return recorder


def _tracer(settings: Settings, metrics: EdgeMetrics) -> tracing.Tracer | None:
    if not settings.traces_url:
        return None
    return tracing.tracer_to(
        settings.traces_url,
        share=settings.traces_share,
        resource=tracing.resource_of(
            "tandem-edge", settings.name or socket.gethostname(), __version__
        ),
        dropped=metrics.spans_dropped.inc,
    )


def _chances(model: SpanModel, split: int, kind: str) -> dict[int, Chances]:
    """What the drafts of each exit are worth, as they were calibrated."""
    tables = {n: model.exits[n].calibration.get(kind) for n in {split, model.span.stop}}
    return {
        layer: Chances(table.gaps, table.ranks) if table is not None else untuned_chances()
        for layer, table in tables.items()
    }


def _thread(
    engine: EdgeEngine, settings: Settings, metrics: EdgeMetrics
) -> ModelThread[EdgeWork, EdgeResult]:
    thread: ModelThread[EdgeWork, EdgeResult] = ModelThread(
        engine,
        name="edge-engine",
        schedule=Schedule(
            settings.max_step_rows,
            stretch=settings.step_stretch,
            beside=settings.beside_emergency_rows,
            patience=settings.patience_seconds,
        ),
        max_waiting=settings.max_requests,
        on_step=metrics.stepped,
        on_start=metrics.started,
    )
    model, budget = engine.model, settings.kv_bytes
    gauges = Gauges(
        lambda: thread.waiting, lambda c: thread.waiting_as(c), lambda: model.kv_bytes, budget
    )
    metrics.read_from(gauges)
    return thread


def _shown(settings: Settings, manifest: Manifest) -> dict[str, object]:
    return {
        "name": settings.name or socket.gethostname(),
        "version": __version__,
        "model": manifest.model,
        "fingerprint": manifest.fingerprint,
        "split": manifest.split,
        "edge_depth": manifest.edge_depth,
        "depth": manifest.depth,
        "compute_format": manifest.compute_format,
    }


def _state(answering: Answering) -> dict[str, object]:
    """What of `/readyz` changes: the modes served as things are, and the cloud."""
    state: dict[str, object] = {"modes": list(answering.modes_now), "cloud": "none"}
    if answering.cloud is not None:
        link = answering.cloud.link
        state["cloud"] = link.state
        replicas = answering.cloud.replicas
        state["replicas"] = {"serving": replicas.count_serving(), "known": len(replicas.known)}
        if problem := link.unfit or link.last_failure:
            state["cloud_problem"] = problem
    return state
