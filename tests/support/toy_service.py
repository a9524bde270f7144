"""The real services around the toy model: cloud routes, completion and contexts; edge generation
and uplink; no sockets.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import httpx
from prometheus_client import CollectorRegistry

from services.cloud.passes import draw_of
from services.edge.chain import Chain
from services.edge.chances import RANKS, untuned_chances
from services.edge.cloud_client import CloudClient
from services.edge.controller import Controller, Measured
from services.edge.draft_uplink import DraftUplink
from services.edge.drafting import Ranker
from services.edge.drafts import Drafts
from services.edge.engine import EdgeEngine
from services.edge.generation import Generation, Token
from services.edge.link import Link
from services.edge.metrics import EdgeMetrics
from services.edge.policy import Mode, OnCloudLoss, Pacing, Rules
from services.edge.replicas import Replicas
from services.edge.route import Route
from services.edge.state import EdgeState
from services.edge.uplink import Uplink
from services.edge.verified import Verified
from shared.decoding.sampling import SAMPLER_VERSION, PrefixState, SamplingParameters
from shared.decoding.sequence import Sequence as TokenSequence
from shared.exits.policies import build
from shared.exits.policy import Policy
from shared.model import LayerSpan, SpanModel
from shared.protocol.messages import Codec, Opening, Sampling
from shared.runtime.background import Background
from shared.runtime.breaker import Breaker
from shared.runtime.model_thread import ModelThread
from shared.runtime.schedule import Schedule
from tests.support.crashes import Crash, Crashing
from tests.support.faults import Fault, FaultyTransport
from tests.support.toy_cloud import FINGERPRINT, LIMIT
from tests.support.toy_model import DEPTH, EDGE_DEPTH, SPLIT, VOCABULARY, WIDTH, ToyModel

Way = tuple[CloudClient, Link, EdgeMetrics, Background, Route]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request and what it will suffer."""

    mode: Mode
    prompt: Sequence[int]
    new_tokens: int
    thresholds: dict[int, float]
    errors: dict[int, int]  # exit layer -> percent of wrong answers
    faults: Sequence[Fault] = ()
    on_cloud_loss: OnCloudLoss = "degrade"
    codec: Codec = "fp16"
    sampling: Sampling = field(default_factory=Sampling)
    hang_up_after: int | None = None  # tokens after which the caller goes away
    pacing: Pacing = field(default_factory=Pacing)  # of `verified`, as what follows
    by_ids: bool = False
    prompt_as_ids: bool = False
    most_held: int = 0  # of `collaborative`
    crashes: Sequence[Crash | str | None] = ()  # what befalls the replica asked, request by request
    resumable: bool = False
    policy: Policy | None = None  # none: `per_exit` with the thresholds

    @property
    def parameters(self) -> SamplingParameters:
        """As the engines take them."""
        return draw_of(self.sampling).parameters


@dataclass
class Outcome:
    """What came of a case: tokens with sources, the error that ended it, and the two sides'
    states.
    """

    tokens: list[Token] = field(default_factory=list)
    error: Exception | None = None
    generation: Generation | None = None
    uplink: Uplink | None = None
    bodies: list[bytes] = field(default_factory=list)
    sessions_left: int = 0
    bytes_left: int = 0


class Served(Protocol):
    """A cloud, or several, as a case sees it."""

    @property
    def app(self) -> Any:
        """The ASGI application."""

    @property
    def store(self) -> Any:
        """What is left at the end: its length, and `nbytes`."""

    def forget(self) -> None:
        """Lose every session."""


async def run_case(
    case: Case,
    cloud: Served,
    *others: Served,
    around: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] | None = None,
    suffer: Callable[[str], None] | None = None,
) -> Outcome:
    """Answer one request against `cloud`, through a transport that follows the case's script, and
    one `around` it; with other replicas beside it, which the script's crashes go round.
    """
    outcome = Outcome()
    fleet = Crashing([cloud, *others], case.crashes, suffer) if others else None
    model = ToyModel(LayerSpan(0, EDGE_DEPTH, DEPTH), dict(case.errors))
    engine = EdgeEngine(cast(SpanModel, model), SPLIT, max_rows=3)
    transport = FaultyTransport(fleet or httpx.ASGITransport(cloud.app), case.faults, cloud.forget)
    way_there = around(transport) if around is not None else transport
    background = Background()
    async with AsyncExitStack() as stack:
        thread: ModelThread[Any, Any] = stack.enter_context(
            ModelThread(engine, "toy-edge", Schedule(3), 64)
        )
        http = await stack.enter_async_context(
            httpx.AsyncClient(transport=way_there, base_url="http://cloud")
        )
        generation = _generation(case, http, background, engine, thread, fleet)
        outcome.generation, outcome.uplink = generation, generation.uplink
        outcome.bodies = transport.bodies
        try:
            async with aclosing(generation.tokens()) as tokens:
                async for token in tokens:
                    outcome.tokens.append(token)
                    if len(outcome.tokens) == case.hang_up_after:
                        break
        except Exception as error:
            outcome.error = error
        await background.drain(60)
        if fleet is not None:
            fleet.expire()
        clouds = [cloud, *others]
        outcome.sessions_left = sum(len(each.store) for each in clouds)
        outcome.bytes_left = sum(each.store.nbytes for each in clouds)
    return outcome


def _generation(
    case: Case,
    http: httpx.AsyncClient,
    background: Background,
    engine: EdgeEngine,
    thread: Any,
    fleet: Crashing | None,
) -> Generation:
    metrics = EdgeMetrics(CollectorRegistry())
    opening = _opening(case)
    link = Link(0.0, 0.0)
    alone = Replicas([httpx.URL("http://cloud")], lambda: Breaker(0.0, 0.0))
    route = fleet.route() if fleet else Route(alone, "session-1")
    way: Way = (CloudClient(http, LIMIT), link, metrics, background, route)
    state = engine.new_state()
    verified = None
    if case.mode == "verified":
        verified = _verified(case, opening, way, state, thread)
        uplink: Uplink = verified.uplink
    else:
        chain = Chain("session-1", opening, hidden=WIDTH, vocab=VOCABULARY)
        uplink = Uplink(chain, *way)
    uplink.resumable = case.resumable
    return Generation(
        sequence=TokenSequence(
            case.prompt, max_new_tokens=case.new_tokens, eos_ids=case.sampling.eos_ids
        ),
        rules=Rules(
            mode=case.mode,
            policy=case.policy or build("per_exit", {"thresholds": case.thresholds}),
            on_cloud_loss=case.on_cloud_loss,
            most_held=case.most_held,
        ),
        parameters=case.parameters,
        seed=case.sampling.seed,
        state=state,
        thread=thread,
        uplink=None if case.mode == "standalone" else uplink,
        verified=verified,
    )


@dataclass(frozen=True)
class _Fixed:
    """A controller without a choice."""

    chosen: Pacing

    def pacing(self, *_: object, **__: object) -> Pacing:
        return self.chosen

    def ran(self, *_: object, **__: object) -> None:
        """Learns nothing."""

    def explores(self) -> bool:
        return False

    @property
    def seen(self) -> Measured:
        return Measured()


def _verified(case: Case, opening: Opening, way: Way, state: EdgeState, thread: Any) -> Verified:
    drafts = Drafts(
        "session-1",
        opening,
        hidden=WIDTH,
        vocab=VOCABULARY,
        prompt=case.prompt,
        prefix=PrefixState.start(case.prompt),
        chances={layer: untuned_chances() for layer in (SPLIT, EDGE_DEPTH)},
    )
    return Verified(
        drafts=drafts,
        uplink=DraftUplink(drafts, *way, as_ids=case.prompt_as_ids),
        state=state,
        thread=thread,
        ranker=Ranker(case.parameters, case.sampling.seed, RANKS),
        controller=cast(Controller, _Fixed(case.pacing)),
        degrade=case.on_cloud_loss == "degrade",
    )


def _opening(case: Case) -> Opening:
    by_ids = case.mode == "cloud" or (case.mode == "verified" and case.by_ids)
    return Opening(
        fingerprint=FINGERPRINT,
        trunk_format="fp32",
        sampler_version=SAMPLER_VERSION,
        depth=DEPTH,
        split=0 if by_ids else SPLIT,
        mode=cast(Any, case.mode),
        codec=case.codec,
        prompt_tokens=len(case.prompt),
        max_positions=len(case.prompt) + case.new_tokens,
        sampling=case.sampling,
    )
