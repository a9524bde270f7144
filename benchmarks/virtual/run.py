"""One deployment in virtual time: requests in, tokens and what they took out."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest import mock

import httpx

from benchmarks.paced.prices import PAPER_HIDDEN, paper_prices
from benchmarks.virtual.clock import VirtualLoop
from benchmarks.virtual.engine import PricedModel, VirtualThread
from benchmarks.virtual.network import Network
from services.cloud import main as cloud_main
from services.cloud.settings import Settings as CloudSettings
from services.edge import main as edge_main
from services.edge.settings import Settings as EdgeSettings
from shared.model import SpanModel, load_bundle

T = TypeVar("T")


@dataclass(slots=True)
class Log:
    """What happened, in virtual seconds: steps (side, began, ended, work) and requests to the cloud
    (sent, arrived, path, bytes).
    """

    steps: list[tuple[str, float, float, Any]] = field(default_factory=list)
    requests: list[tuple[float, float, str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer: when it was asked, when each token came, its details and what happened
    meanwhile.
    """

    began: float
    arrivals: Sequence[float]
    details: Mapping[str, Any]
    log: Log

    @property
    def seconds(self) -> float:
        """From the request to its last token."""
        return self.arrivals[-1] - self.began


@dataclass(frozen=True, slots=True)
class Deployed:
    """Two bundles to serve, and the edge's settings (without TANDEM_EDGE_).

    Args:
        rtt_ms, mbit: of the network between them.
        one_device: both sides compute on the cloud's device, one step at a time.
    """

    edge: Path
    cloud: Path
    rtt_ms: float
    mbit: float = 30.0
    settings: Mapping[str, object] = field(default_factory=dict)
    one_device: bool = False


def answers(deployed: Deployed, asked: Sequence[Mapping[str, Any]]) -> list[Answered]:
    """Ask one after the other (`inputs` and `parameters` of `POST /generate`); the first is asked
    once before, so that connections are open.
    """
    loop = VirtualLoop()
    try:
        with _virtual(loop):
            return loop.run_until_complete(_answers(deployed, asked))
    finally:
        loop.close()


@contextmanager
def _virtual(loop: VirtualLoop) -> Iterator[None]:
    async def directly(work: Callable[..., T], *given: Any) -> T:
        return work(*given)

    with (
        mock.patch("time.perf_counter", loop.time),
        mock.patch("time.monotonic", loop.time),
        mock.patch("asyncio.to_thread", directly),
    ):
        yield


async def _answers(deployed: Deployed, asked: Sequence[Mapping[str, Any]]) -> list[Answered]:
    log = Log()
    async with AsyncExitStack() as stack:
        device = asyncio.Lock()
        cloud = _app(
            cloud_main,
            lambda model: cloud_main.create_app(
                CloudSettings(bundle=deployed.cloud, threads=1), model
            ),
            deployed.cloud,
            _noting(log, "cloud"),
            device,
        )
        await stack.enter_async_context(cloud.router.lifespan_context(cloud))
        network = Network(
            cloud, deployed.rtt_ms, deployed.mbit, lambda *each: log.requests.append(each)
        )
        given: dict[str, Any] = dict(deployed.settings)
        edge = _app(
            edge_main,
            lambda model: edge_main.create_app(
                EdgeSettings(bundle=deployed.edge, threads=1, cloud_url="http://cloud", **given),
                model,
                cloud_transport=network,
            ),
            deployed.edge,
            _noting(log, "edge"),
            device if deployed.one_device else asyncio.Lock(),
        )
        await stack.enter_async_context(edge.router.lifespan_context(edge))
        user = Network(edge, 0.0, 1e6, lambda *_: None)
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=user, base_url="http://edge", timeout=None)
        )
        await asyncio.sleep(1.0)  # the edge has seen its cloud
        found = [await _ask(client, body, log) for body in [asked[0], *asked]]
        return found[1:]


def _noting(log: Log, side: str) -> Callable[[float, float, Any], None]:
    return lambda began, ended, work: log.steps.append((side, began, ended, work))


def _app(
    main: Any,
    create: Callable[[SpanModel], Any],
    bundle: Path,
    note: Callable[[float, float, Any], None],
    device: asyncio.Lock,
) -> Any:
    loaded = load_bundle(bundle)
    prices = paper_prices().scaled_to(loaded.shape.depth)
    model = PricedModel(loaded, prices, hidden=PAPER_HIDDEN)

    def thread(engine: Any, **_: object) -> VirtualThread[Any, Any]:
        return VirtualThread(engine, model, device, note)

    with mock.patch.object(main, "ModelThread", _Subscripted(thread)):
        return create(cast(SpanModel, model))


@dataclass(frozen=True, slots=True)
class _Subscripted:
    """A factory that may be annotated with types, as a generic class may."""

    make: Callable[..., Any]

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.make(*given, **named)

    def __getitem__(self, _: object) -> "_Subscripted":
        return self


async def _ask(client: httpx.AsyncClient, body: Mapping[str, Any], log: Log) -> Answered:
    log.steps.clear()
    log.requests.clear()
    loop = asyncio.get_running_loop()
    began, arrivals, last = loop.time(), [], {}
    parameters = {**body["parameters"], "details": True}
    asked = {"inputs": body["inputs"], "parameters": parameters, "stream": True}
    async with client.stream("POST", "/generate", json=asked) as response:
        if response.status_code != httpx.codes.OK:
            raise RuntimeError((await response.aread()).decode())
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
                arrivals.append(loop.time())
    if "details" not in last:
        raise RuntimeError(str(last))
    kept = Log(list(log.steps), list(log.requests))
    await asyncio.sleep(1.0)  # goodbyes
    return Answered(began, arrivals, last["details"], kept)
