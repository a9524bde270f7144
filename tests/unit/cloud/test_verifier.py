"""When the cloud decides an edge's drafts: at once, when what it needs comes, by itself, or not."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from services.cloud.contexts import VerifiedContext
from shared.errors import ComputeError
from shared.protocol.messages import Block, Report, Want
from shared.protocol.version import PATH_STREAM
from shared.protocol.wire import decode, encode
from tests.support.toy_model import SPLIT, VOCABULARY, full_choice
from tests.unit.cloud.served import LIMIT, Served, served
from tests.unit.cloud.sessions import OPENING, SESSION, block

PROMPT = (1, 5, 3)
VERIFIED = replace(OPENING, mode="verified")


def text_of(count: int) -> list[int]:
    """The prompt and what the full model makes of it, `count` tokens in all."""
    tokens = list(PROMPT)
    while len(tokens) < count:
        tokens.append(full_choice(tokens))
    return tokens


RIGHT = text_of(20)


def other_than(token: int) -> int:
    return (token + 1) % VOCABULARY


def nodes(
    line: Sequence[int], start: int, known: int, sequence: int, *, now: int = 0, **more: Any
) -> Block:
    """Nodes [start, end) of `line` from an edge that knows `known` positions; `now` asks for so
    many tokens.
    """
    wanted: dict[str, Any] = {"want": Want.NOW, "count": now} if now else {}
    fields: dict[str, Any] = {
        "opening": VERIFIED,
        "sequence": sequence,
        "binding": known,
        "acknowledged": known,
    }
    return block(len(line), start, text=line, **fields | wanted | more)


def opened(*, now: int = 0, **more: Any) -> Block:
    return nodes(PROMPT, 0, 3, 1, now=now, **more)


async def report(cloud: Served, *blocks: Block) -> Report:
    answer = await cloud.send(b"".join(map(encode, blocks)))
    message = decode(answer.content, limit=LIMIT)
    assert isinstance(message, Report), message
    return message


async def stream(cloud: Served, *blocks: Block) -> list[list[int]]:
    """The tokens decided when each report of a stream was made."""
    answer = await cloud.send(b"".join(map(encode, blocks)), PATH_STREAM)
    rest, told = answer.content, []
    while rest:
        length = int.from_bytes(rest[4:8], "little") + 12
        message = decode(rest[:length], limit=LIMIT)
        assert isinstance(message, Report), message
        told.append(list(message.tokens))
        rest = rest[length:]
    return told


def context_of(cloud: Served) -> VerifiedContext:
    context = cloud.store._contexts[SESSION]
    assert isinstance(context, VerifiedContext)
    return context


async def test_a_body_is_decided_as_far_as_it_is_right_and_one_token_more() -> None:
    async with served() as cloud:
        wrong = [*RIGHT[:5], other_than(RIGHT[5])]
        made = await report(
            cloud, opened(), nodes(wrong, 3, 3, 2), nodes([*PROMPT, 0], 3, 3, 3, now=1)
        )
        assert (made.through, list(made.tokens), made.passes) == (6, RIGHT[3:6], 1)
        assert made.need_from is None
        assert made.pressure.allowed_nodes == context_of(cloud).max_nodes


async def test_what_comes_without_asking_waits_for_the_asking() -> None:
    async with served() as cloud:
        await report(cloud, opened())
        assert (await report(cloud, nodes(RIGHT[:6], 3, 3, 2))).through == 3
        assert cloud.model.steps == 0
        made = await report(cloud, nodes(RIGHT[:6], 6, 3, 3, now=1, tokens=(), states=None))
        assert (made.through, made.passes) == (7, 1)


async def test_a_pass_that_lacks_a_state_is_made_up_for_when_that_comes() -> None:
    async with served() as cloud:
        first = await report(cloud, opened(now=1))
        assert first.through == 4  # its token has no state here
        early = await report(cloud, nodes(RIGHT[:4], 4, 4, 3, now=1))
        assert (early.through, early.need_from, early.passes) == (4, None, 1)
        assert context_of(cloud).hungry
        late = await report(cloud, nodes(RIGHT[:4], 3, 4, 4))
        assert (late.through, late.passes) == (5, 2)
        assert not context_of(cloud).hungry
        assert (await report(cloud, nodes(RIGHT[:5], 4, 5, 5))).passes == 2


async def test_a_body_that_came_first_waits_for_the_one_before() -> None:
    async with served(reorder_seconds=60) as cloud:
        await report(cloud, opened())
        ahead = asyncio.create_task(report(cloud, nodes(RIGHT[:7], 6, 6, 3, now=1)))
        await asyncio.sleep(0)
        before = await report(cloud, nodes(RIGHT[:6], 3, 6, 2))
        made = await ahead
        assert (made.through, made.need_from, before.need_from) == (8, None, None)


async def test_where_the_one_before_never_comes_it_is_asked_for() -> None:
    async with served() as cloud:
        await report(cloud, opened())
        made = await report(cloud, nodes(RIGHT[:7], 6, 6, 3, now=1))
        assert (made.need_from, made.through, made.passes) == (3, 3, 0)
        again = await report(cloud, nodes(RIGHT[:6], 3, 6, 4, now=1))
        assert (again.need_from, again.through) == (None, 8)  # the node that had come counts


async def test_the_same_body_several_times_at_once_decides_once() -> None:
    async with served() as cloud:
        await report(cloud, opened())
        asked = nodes(RIGHT[:6], 3, 3, 2, now=1)
        made = await asyncio.gather(*(report(cloud, asked) for _ in range(6)))
        assert {each.through for each in made} == {7}
        assert context_of(cloud).passes == 1


async def test_the_cloud_goes_on_by_itself_for_as_long_as_asked() -> None:
    async with served() as cloud:
        told = await stream(cloud, opened(), nodes(RIGHT[:5], 3, 3, 2, now=4))
        assert told == [RIGHT[3:6], [RIGHT[6]], [RIGHT[7]], [RIGHT[8]]]
        # The states it made are those the edge would have sent.
        await report(cloud, nodes(RIGHT[:10], 8, 9, 3, now=1))
        assert context_of(cloud).tokens == RIGHT[:11]


async def test_it_stops_where_the_edge_has_announced_what_it_decided() -> None:
    async with served() as cloud:
        running = nodes(RIGHT[:6], 5, 3, 3, now=4, states=None)
        told = await stream(cloud, opened(), nodes(RIGHT[:5], 3, 3, 2), running)
        assert told == [RIGHT[3:6]]
        unlucky = nodes([*RIGHT[:6], other_than(RIGHT[6])], 6, 6, 5, now=2, states=None)
        told = await stream(cloud, nodes(RIGHT[:6], 5, 6, 4), unlucky)
        assert told == [[RIGHT[6]], [RIGHT[7]]]


async def test_it_goes_on_from_the_edges_state_where_that_has_come() -> None:
    async with served(start=SPLIT) as cloud:  # without the layers below the split
        told = await stream(cloud, opened(), nodes(RIGHT[:4], 3, 3, 2, now=3))
        assert told == [RIGHT[3:5]]
        await report(cloud, nodes(RIGHT[:5], 4, 5, 3))
        assert context_of(cloud).tokens == RIGHT[:5]
        assert await stream(cloud, nodes(RIGHT[:5], 5, 5, 4, now=2)) == [[RIGHT[5]]]


async def test_a_prompt_as_ids_needs_the_layers_that_make_its_states() -> None:
    async with served() as cloud:
        made = await report(cloud, opened(now=1, states=None))
        assert list(made.tokens) == [RIGHT[3]]
    for start, trunk in ((SPLIT, "fp32"), (0, "int8")):
        async with served(start=start) as cloud:
            opening = replace(VERIFIED, trunk_format=trunk)
            status, fault = await cloud.fault(opened(now=1, states=None, opening=opening))
            assert (status, fault.code) == (400, "shape")


async def test_only_a_tree_of_drafts_comes_in_several_blocks() -> None:
    async with served() as cloud:
        body = b"".join(encode(block(3, sequence=n)) for n in (1, 2))
        status, fault = await cloud.fault(body)
        assert (status, fault.code) == (400, "malformed")


@pytest.mark.parametrize("alone", [False, True])
async def test_after_a_failed_pass_the_same_request_succeeds(alone: bool) -> None:
    async with served() as cloud:
        asked = opened(now=1, states=None) if alone else nodes(RIGHT[:6], 3, 3, 2, now=1)
        if not alone:
            await report(cloud, opened())
        for breaking in ("step", "numbers"):
            cloud.model.breaks = ComputeError("broken") if breaking == "step" else None
            cloud.model.poisoned = breaking == "numbers"
            assert (await cloud.send(asked)).status_code == 500
        made = await report(cloud, asked)
        assert list(made.tokens) == RIGHT[3 : made.through]
        assert made.through == (4 if alone else 7)


async def test_an_ended_text_is_decided_no_further() -> None:
    ending = replace(VERIFIED, max_positions=5)
    async with served() as cloud:
        told = await stream(cloud, opened(now=9, opening=ending))
        assert told == [[RIGHT[3]], [RIGHT[4]]]
        again = await report(cloud, nodes(RIGHT[:5], 5, 5, 3, now=1, opening=ending))
        assert (again.through, again.need_from) == (5, None)
        assert not context_of(cloud).hungry
