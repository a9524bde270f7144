"""The cloud's routes around the toy model, with everything a test wants to look at in reach."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from torch import Tensor

from services.cloud.completion import Completion
from services.cloud.contexts import MemoryContexts
from services.cloud.engine import CloudEngine
from services.cloud.metrics import CloudMetrics
from services.cloud.routes import Surface
from services.cloud.verifier import Verifier
from services.cloud.welcome import Welcome
from shared.access.limiter import Limiter
from shared.model import LayerSpan, Segment, SpanModel
from shared.protocol.messages import Block, Fault, Report
from shared.protocol.version import MEDIA_TYPE, PATH_BLOCKS, PATH_STREAM
from shared.protocol.wire import decode, encode, frame_length
from shared.runtime.model_thread import ModelThread
from shared.runtime.schedule import Schedule
from shared.web import errors
from tests.support.toy_cloud import FINGERPRINT
from tests.support.toy_model import DEPTH, WIDTH, ToyCache, ToyModel

LIMIT = 1 << 16
HEADERS = {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}


@dataclass
class WatchedModel(ToyModel):
    """The toy model with its caches on record, and a gate a step can be held at."""

    caches: list[ToyCache] = field(default_factory=list)
    steps: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    breaks: Exception | None = None
    poisoned: bool = False

    def __post_init__(self) -> None:
        self.gate.set()

    def new_cache(self) -> ToyCache:
        self.caches.append(super().new_cache())
        return self.caches[-1]

    def forward(self, segments: Sequence[Segment]) -> list[Tensor]:
        self.steps += 1
        assert self.gate.wait(60)
        if self.breaks is not None:
            failure, self.breaks = self.breaks, None
            raise failure
        return super().forward(segments)

    def logits(self, hidden: Tensor) -> Tensor:
        factor, self.poisoned = (float("nan") if self.poisoned else 1.0), False
        return super().logits(hidden) * factor


@dataclass
class Served:
    """A cloud and a connection to it."""

    model: WatchedModel
    store: MemoryContexts
    completion: Completion
    metrics: CloudMetrics
    http: httpx.AsyncClient

    async def send(self, frame: bytes | Block, path: str = PATH_BLOCKS) -> httpx.Response:
        content = encode(frame) if isinstance(frame, Block) else frame
        return await self.http.post(path, content=content, headers=HEADERS)

    async def report(self, block: Block) -> Report:
        """The report a block is answered with."""
        answer = await self.send(block)
        assert answer.status_code == 200, decode(answer.content, limit=LIMIT)
        message = decode(answer.content, limit=LIMIT)
        assert isinstance(message, Report)
        return message

    async def fault(self, frame: bytes | Block, path: str = PATH_BLOCKS) -> tuple[int, Fault]:
        """The status and fault a frame is refused with."""
        answer = await self.send(frame, path)
        message = decode(answer.content, limit=LIMIT)
        assert isinstance(message, Fault)
        return answer.status_code, message

    async def stream(self, block: Block) -> list[Report | Fault]:
        """Every frame of a stream."""
        answer = await self.send(block, PATH_STREAM)
        frames, rest = [], answer.content
        while rest:
            length = frame_length(rest, limit=LIMIT)
            message = decode(rest[:length], limit=LIMIT)
            assert isinstance(message, Report | Fault)
            frames.append(message)
            rest = rest[length:]
        return frames

    def outcomes(self) -> dict[tuple[str, str], float]:
        """Requests counted so far, by operation and outcome."""
        return {
            (sample.labels["operation"], sample.labels["outcome"]): sample.value
            for metric in self.metrics.requests.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.value
        }

    async def settled(self) -> None:
        """Hold that nothing is left of any session that was closed, and of no request at all."""
        await self.completion.background.drain(60)
        await asyncio.to_thread(self._errands_done)
        assert self.metrics.running._value.get() == 0
        assert self.completion.thread.waiting == 0
        kept = {id(context.cache) for context in self.store._contexts.values()}
        assert [c for c in self.model.caches if c.rows and id(c) not in kept] == []
        assert self.store.nbytes == sum(c.nbytes for c in self.store._contexts.values())
        assert all(context.users == 0 for context in self.store._contexts.values())

    def _errands_done(self) -> None:
        ran = threading.Event()
        self.completion.thread.post(ran.set)
        assert ran.wait(60)


@asynccontextmanager
async def served(
    *,
    budget_bytes: int = 1 << 20,
    max_contexts: int = 8,
    max_waiting: int = 64,
    reorder_seconds: float = 0.0,
    start: int = 0,
    limiter: Limiter | None = None,
) -> AsyncIterator[Served]:
    """Run a cloud that holds layers [start, depth)."""
    model = WatchedModel(LayerSpan(start, DEPTH, DEPTH))
    engine = CloudEngine(cast(SpanModel, model))
    metrics = CloudMetrics(CollectorRegistry())
    with ModelThread(engine, "test-cloud", Schedule(4), max_waiting) as thread:
        store = MemoryContexts(
            hidden=WIDTH,
            budget_bytes=budget_bytes,
            max_contexts=max_contexts,
            ttl_seconds=60,
            release=lambda cache: thread.post(cache.close),
        )
        welcome = Welcome(FINGERPRINT, model.span, model.shape)
        verifier = Verifier(store, engine, thread, metrics, "fp32", 0.0, reorder_seconds)
        completion = Completion(welcome, store, engine, thread, verifier, metrics, reorder_seconds)
        app = FastAPI()
        errors.install(app)
        given = Limiter() if limiter is None else limiter
        surface = Surface(completion, metrics, {"depth": DEPTH}, LIMIT, given)
        app.include_router(surface.routes())
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://cloud"
        ) as http:
            running = Served(model, store, completion, metrics, http)
            yield running
            model.gate.set()
            await running.settled()
