"""What one edge may have of a cloud: a share of its contexts and memory, requests and tokens."""

import asyncio
from contextlib import ExitStack

import pytest

from shared.access import Limits
from shared.access.limiter import Limiter
from shared.errors import OutOfMemory, Overloaded
from shared.protocol.messages import Fault
from shared.protocol.version import PATH_STREAM
from tests.unit.cloud.served import served
from tests.unit.cloud.sessions import CLOUD_OPENING, ask, block
from tests.unit.cloud.shelf import KV_BYTES, LOG_BYTES, Shelf
from tests.unit.cloud.test_completion import until


def test_an_owner_has_its_share_of_the_contexts_and_its_own_idle_ones_make_room() -> None:
    shelf = Shelf(max_contexts=8, share_per_owner=0.5)
    shelf.fill("z", owner="paris")
    first, *_ = shelf.fill("a", "b", "c", "d", owner="berlin")
    shelf.fill("e", owner="berlin")
    assert shelf.store.held(first.key) is None
    assert (len(shelf.store), shelf.changes["evicted"]) == (5, 1)
    with ExitStack() as held:
        for name in "bcde":
            held.enter_context(shelf.using(name, None, owner="berlin"))
        with pytest.raises(Overloaded, match="all 4 contexts"):
            shelf.fill("f", owner="berlin")
        shelf.fill("f", "g", owner="paris")
    shelf.fill("f", owner="berlin")
    for name in "bcdef":
        shelf.store.forget(f"berlin:{name}", 0)
    shelf.fill("h", "i", "j", "k", owner="berlin")
    assert shelf.changes["evicted"] == 2


def test_an_owner_has_its_share_of_the_memory_and_takes_none_of_others() -> None:
    one = LOG_BYTES + KV_BYTES
    shelf = Shelf(budget_bytes=8 * one, share_per_owner=0.25)
    (theirs,) = shelf.fill("z", owner="paris")
    a, b = shelf.fill("a", "b", owner="berlin")
    with shelf.using("b", None, owner="berlin"):
        shelf.store.make_room(b, KV_BYTES)
        assert (a.cache, theirs.cache is None) == (None, False)
        with pytest.raises(OutOfMemory, match="all the memory they may"):
            shelf.store.make_room(b, one + 1)
    with shelf.using("z", None, owner="paris"):
        shelf.store.make_room(theirs, KV_BYTES)
    assert shelf.store.nbytes == sum(c.nbytes for c in shelf.store._contexts.values())


async def test_requests_for_tokens_are_limited_and_uploads_are_not() -> None:
    limiter = Limiter(Limits(requests_per_minute=2))
    async with served(limiter=limiter) as cloud:
        await cloud.report(block(4))
        for session in ("s1", "s2"):
            await cloud.report(ask(4, session=session))
        status, fault = await cloud.fault(ask(4, session="s3"))
        assert (status, fault.code, fault.retryable) == (429, "limited", True)
        await cloud.report(block(4, session="s4"))
        assert cloud.outcomes()["complete", "limited"] == 1


async def test_tokens_are_charged_with_the_prompt_and_given_back_where_they_do_not_come() -> None:
    limiter = Limiter(Limits(tokens_per_minute=10))
    async with served(limiter=limiter) as cloud:
        await cloud.report(ask(3))  # 3 of the prompt, and one
        status, fault = await cloud.fault(
            ask(3, opening=CLOUD_OPENING, count=4, session="b"), PATH_STREAM
        )
        assert (status, fault.code) == (429, "limited")
        frames = await cloud.stream(ask(3, opening=CLOUD_OPENING, count=3, session="b"))
        assert not any(isinstance(frame, Fault) for frame in frames)
        status, fault = await cloud.fault(
            ask(3, opening=CLOUD_OPENING, count=9, session="c"), PATH_STREAM
        )
        assert (status, fault.code, fault.field) == (422, "invalid", "count")


async def test_a_place_is_free_again_when_its_request_ends_however_it_ends() -> None:
    limiter = Limiter(Limits(concurrent=1))
    async with served(limiter=limiter) as cloud:
        cloud.model.gate.clear()
        running = asyncio.create_task(cloud.report(ask(4)))
        await until(lambda: cloud.model.steps > 0)
        status, fault = await cloud.fault(ask(4, session="other"))
        assert (status, fault.code) == (429, "limited")
        cloud.model.gate.set()
        await running
        cloud.model.breaks = ValueError("broken")
        with pytest.raises(ValueError, match="broken"):
            await cloud.report(ask(4, session="breaks"))
        await cloud.stream(ask(3, opening=CLOUD_OPENING, count=2, session="streamed"))
        await cloud.report(ask(4, session="other"))
