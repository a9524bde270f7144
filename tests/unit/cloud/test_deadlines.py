"""Blocks whose senders say how long they wait: what has not begun by then is not begun."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from shared.model import Segment
from shared.protocol.messages import Fault, Report
from shared.protocol.version import HEADER_TIMEOUT, PATH_BLOCKS, PATH_STREAM
from shared.protocol.wire import decode, encode
from tests.support.clock import deadlines_clock
from tests.support.toy_model import full_choice
from tests.unit.cloud.served import HEADERS, LIMIT, Served, served
from tests.unit.cloud.sessions import CLOUD_OPENING, TEXT, ask, block
from tests.unit.cloud.test_completion import until
from tests.unit.cloud.test_verifier import RIGHT, nodes, opened, report

MINUTE = "60000"  # in milliseconds


async def timed(
    cloud: Served, body: bytes, milliseconds: str, path: str = PATH_BLOCKS
) -> Fault | Report:
    """What a sender is answered that says how long it waits."""
    headers = HEADERS | {HEADER_TIMEOUT: milliseconds}
    answer = await cloud.http.post(path, content=body, headers=headers)
    message = decode(answer.content, limit=LIMIT)
    assert isinstance(message, Fault | Report)
    assert answer.status_code == {"deadline": 504, "invalid": 422}.get(
        getattr(message, "code", ""), 200
    )
    return message


async def test_a_pass_that_waits_for_longer_than_its_sender_is_dropped_and_a_repeat_runs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = deadlines_clock(monkeypatch)
    async with served() as cloud:
        cloud.model.gate.clear()
        other = asyncio.create_task(cloud.report(ask(5, session="other")))
        await until(lambda: cloud.model.steps > 0)
        late = asyncio.create_task(timed(cloud, encode(ask(5)), MINUTE))
        await until(lambda: cloud.completion.thread.waiting == 2)
        clock.ahead = 61
        cloud.model.gate.set()
        refused = await late
        assert isinstance(refused, Fault)
        assert (refused.code, refused.retryable) == ("deadline", True)
        await other
        steps = cloud.model.steps
        assert cloud.outcomes()["complete", "deadline"] == 1
        assert (await cloud.report(ask(5))).tokens == (full_choice(TEXT[:5]),)
        assert cloud.model.steps > steps


async def test_a_pass_under_way_keeps_its_result_for_the_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = deadlines_clock(monkeypatch)
    async with served() as cloud:
        cloud.model.gate.clear()
        slow = asyncio.create_task(timed(cloud, encode(ask(4)), MINUTE))
        await until(lambda: cloud.model.steps > 0)
        clock.ahead = 61
        cloud.model.gate.set()
        first = await slow
        steps = cloud.model.steps
        again = await timed(cloud, encode(ask(4)), MINUTE)
        assert isinstance(first, Report)
        assert isinstance(again, Report)
        assert first.tokens == again.tokens == (full_choice(TEXT[:4]),)
        assert cloud.model.steps == steps


async def test_a_block_waits_for_its_predecessor_no_longer_than_its_sender() -> None:
    async with served(reorder_seconds=30) as cloud, asyncio.timeout(60):
        await cloud.report(block(4))
        late = await timed(cloud, encode(ask(9, 7)), "20")
        assert isinstance(late, Fault)
        assert late.code == "deadline"
        await report(cloud, opened(session="drafts"))
        ahead = nodes(RIGHT[:6], 5, 5, 3, now=1, session="drafts")
        late = await timed(cloud, encode(ahead), "20")
        assert isinstance(late, Fault)
        assert late.code == "deadline"


async def test_a_dropped_pass_of_drafts_is_made_up_for_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = deadlines_clock(monkeypatch)
    async with served() as cloud:
        cloud.model.gate.clear()
        other = asyncio.create_task(cloud.report(ask(5, session="other")))
        await until(lambda: cloud.model.steps > 0)
        late = asyncio.create_task(timed(cloud, encode(opened(now=1)), MINUTE))
        await until(lambda: cloud.completion.thread.waiting == 2)
        clock.ahead = 61
        cloud.model.gate.set()
        refused = await late
        assert isinstance(refused, Fault)
        assert refused.code == "deadline"
        await other
        made = await report(cloud, opened(now=1))
        assert list(made.tokens) == RIGHT[3:4]


async def test_a_stream_is_held_to_its_deadline_until_its_first_report_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = deadlines_clock(monkeypatch)
    async with served() as cloud:
        forward = cloud.model.forward

        def slow_in_between(segments: Sequence[Segment]) -> Any:
            if cloud.model.steps == 1:
                clock.ahead += 61
            return forward(segments)

        cloud.model.forward = slow_in_between  # type: ignore[method-assign]
        body = encode(ask(3, opening=CLOUD_OPENING, count=4))
        headers = HEADERS | {HEADER_TIMEOUT: MINUTE}
        answer = await cloud.http.post(PATH_STREAM, content=body, headers=headers)
        assert answer.content.count(b"TD") == 4
        assert cloud.outcomes() == {("stream", "ok"): 1}


@pytest.mark.parametrize("given", ["", "0", "-1", "1.5", "soon", "1e3", "9999999999", "\u0661"])
@pytest.mark.parametrize("path", [PATH_BLOCKS, PATH_STREAM])
async def test_a_deadline_that_is_none_is_refused_by_name(given: str, path: str) -> None:
    async with served() as cloud:
        named = {**HEADERS, HEADER_TIMEOUT: given}
        headers = {name.encode(): value.encode() for name, value in named.items()}
        answer = await cloud.http.post(path, content=encode(ask(5)), headers=headers)
        fault = decode(answer.content, limit=LIMIT)
        assert isinstance(fault, Fault)
        assert (answer.status_code, fault.code, fault.field) == (422, "invalid", HEADER_TIMEOUT)
        assert len(cloud.store) == 0
