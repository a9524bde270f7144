"""A verified text in the making: when several things come at once, and when a caller leaves."""

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from services.edge.draft_tree import Decided
from services.edge.drafting import Drafted, Drafting, Ranker
from services.edge.engine import EdgeEngine
from services.edge.link import Link
from services.edge.paces import Pace
from services.edge.policy import Pacing
from services.edge.spent import Spent
from services.edge.state import EdgeState
from services.edge.verified import Verified
from shared.decoding.sampling import Ranking, SamplingParameters
from shared.errors import CloudLost, OutOfMemory
from shared.model import LayerSpan
from shared.runtime.model_thread import ModelThread
from shared.runtime.schedule import Schedule
from shared.runtime.work import Claim, Completed
from tests.support.raw_server import until
from tests.support.toy_model import DEPTH, EDGE_DEPTH, SPLIT, ToyModel
from tests.unit.edge.trees import new_drafts

PATIENCE = 60


@dataclass
class Cache:
    closed: bool = False

    def close(self) -> None:
        self.closed = True


@dataclass
class Neighbour:
    """A work of another session, which fills the step before."""

    rows: int = 1
    charge: int = 1
    cache: Cache = field(default_factory=Cache)
    claim: Claim = field(default_factory=Claim)


@dataclass
class Gate:
    """An engine whose steps wait to be let through, and which notes rows of a closed cache."""

    running: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    met_closed: bool = False

    def step(self, batch: Sequence[tuple[Any, int]]) -> list[Any]:
        self.running.set()
        assert self.go.wait(PATIENCE)
        self.met_closed |= any(work.cache.closed for work, _ in batch)
        return ["done"] * len(batch)


@dataclass
class QuietUplink:
    """A cloud that says what the test says."""

    as_ids: bool = False
    room: int = 0
    failure: Exception | None = None
    owed: bool = False
    flying: int = 0
    spent: Spent = field(default_factory=Spent)
    pace: Pace = field(default_factory=Pace)
    decided: deque[Decided] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self) -> None: ...


@dataclass
class LastNews(QuietUplink):
    """A cloud whose answer decides a token while another delivery has failed for good."""

    link: Link = field(default_factory=lambda: Link(0.0, 0.0))

    def ask_for(self, *_: object, **__: object) -> None:
        self.decided.append(Decided(5, drafted=False, chance=None))
        self.failure = CloudLost("it answers no more", reason="refused")


class Steady:
    """A controller without a choice."""

    def pacing(self, *_: object, **__: object) -> Pacing:
        return Pacing()

    def explores(self) -> bool:
        return False

    def ran(self, *_: object, **__: object) -> None: ...


def verified(uplink: QuietUplink, cache: object, thread: ModelThread[Any, Any]) -> Verified:
    return Verified(
        drafts=new_drafts(),
        uplink=cast(Any, uplink),
        state=EdgeState(cast(Any, cache)),
        thread=thread,
        ranker=Ranker(SamplingParameters(), 0, 4),
        controller=cast(Any, Steady()),
        degrade=False,
    )


def errand_done(thread: ModelThread[Any, Any]) -> None:
    ran = threading.Event()
    thread.post(ran.set)
    assert ran.wait(PATIENCE)


async def test_no_step_meets_the_cache_of_a_text_that_was_left() -> None:
    """The model refuses such a step, and with it everybody else in it."""
    gate, uplink, cache = Gate(), QuietUplink(), Cache()
    with ModelThread[Any, Any](gate, "gated", Schedule(8), 8) as thread:
        neighbour = asyncio.create_task(thread.run(Neighbour()))
        assert await asyncio.to_thread(gate.running.wait, PATIENCE)
        text = verified(uplink, cache, thread).tokens()
        first = asyncio.ensure_future(anext(text))
        for _ in range(3):  # to the wait for news, its step in the queue
            await asyncio.sleep(0)
        assert thread.waiting == 2
        uplink.decided.append(Decided(5, drafted=False, chance=None))
        uplink.changed.set()
        await first
        await text.aclose()
        thread.post(cache.close)  # as `Generation` does, now that nobody draws on the text
        gate.go.set()
        errand_done(thread)
        errand_done(thread)
        await neighbour
    assert not gate.met_closed


async def test_a_loss_that_comes_with_the_last_tokens_is_told_after_them() -> None:
    """With the drafts exhausted and nothing in flight, nothing else would end the wait."""
    model = ToyModel(LayerSpan(0, EDGE_DEPTH, DEPTH), {SPLIT: 0, EDGE_DEPTH: 0})
    engine = EdgeEngine(cast(Any, model), SPLIT, max_rows=8)
    with ModelThread[Any, Any](engine, "toy", Schedule(8), 8) as thread:
        making = verified(LastNews(), engine.new_state().cache, thread)
        making.pacing = Pacing(floor=2.0)  # no draft is worth running
        text = making.tokens()
        token, alone = await anext(text)
        assert (token.token, alone) == (5, False)
        with pytest.raises(CloudLost):
            async with asyncio.timeout(PATIENCE):
                await anext(text)


@dataclass
class ByHand:
    """A thread whose steps end when the test says so."""

    works: "list[tuple[Drafting, asyncio.Future[Any]]]" = field(default_factory=list)

    def submit(self, work: Drafting) -> "asyncio.Future[Any]":
        self.works.append((work, asyncio.get_running_loop().create_future()))
        return self.works[-1][1]

    async def end(self, ranking: Ranking) -> None:
        """The last step ends; returns when the next is there."""
        (work, done), before = self.works[-1], len(self.works)
        count = len(work.ids)
        exits = [EDGE_DEPTH] * count
        drafted = Drafted(torch.zeros(count, 4), [ranking] * count, exits, whole=True)
        done.set_result(Completed(drafted, 0.01, 0.0))
        await until(lambda: len(self.works) > before)


async def test_after_a_step_that_failed_none_begins_and_what_was_decided_still_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Verified, "_ask", lambda _: False)
    uplink, thread = QuietUplink(flying=1), ByHand()
    uplink.decided.append(Decided(5, drafted=False, chance=None))
    making = verified(uplink, Cache(), cast(Any, thread))
    making.pacing = Pacing(width=1)
    tokens = making.tokens()
    assert (await anext(tokens))[0].token == 5  # and a reader who takes its time
    await thread.end(Ranking((8, 9), 0.5))
    await thread.end(Ranking((3, 4), 0.5))
    assert len(thread.works) == 3  # the next step does not wait for the reader
    thread.works[-1][1].set_exception(OutOfMemory("KV"))
    await asyncio.sleep(0)
    uplink.decided.append(Decided(6, drafted=False, chance=None))
    assert (await anext(tokens))[0].token == 6
    with pytest.raises(OutOfMemory):
        await anext(tokens)
    assert len(thread.works) == 3


async def test_a_step_that_fails_as_a_token_comes_is_the_last_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Verified, "_ask", lambda _: False)
    uplink, thread = QuietUplink(flying=1), ByHand()
    making = verified(uplink, Cache(), cast(Any, thread))
    making.pacing = Pacing(width=1)
    tokens = making.tokens()
    waiting = asyncio.ensure_future(anext(tokens))
    await asyncio.sleep(0)
    await thread.end(Ranking((8, 9), 0.5))  # the second step runs one, another could be run
    thread.works[-1][1].set_exception(OutOfMemory("KV"))
    uplink.decided.append(Decided(5, drafted=False, chance=None))
    assert (await waiting)[0].token == 5
    with pytest.raises(OutOfMemory):
        await anext(tokens)
    assert len(thread.works) == 2
