"""A cloud that is told to leave: what it still serves, and what it says."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from torch import Tensor

from shared.model import Segment
from shared.protocol.messages import Close, Fault, Opening, Report, Want
from shared.protocol.version import (
    PATH_BLOCKS,
    PATH_CLOSE,
    PATH_MANIFEST,
    PATH_STREAM,
)
from shared.protocol.wire import decode, encode
from tests.support.toy_model import full_choice
from tests.unit.cloud.served import LIMIT, Served, served
from tests.unit.cloud.sessions import CLOUD_OPENING, SESSION, TEXT, ask, block
from tests.unit.cloud.test_verifier import RIGHT, context_of, opened


def stops_after(cloud: Served, step: int) -> None:
    """Let the service be told to leave while the engine is in its step number `step`."""
    forward = cloud.model.forward

    def leaving(segments: Sequence[Segment]) -> list[Tensor]:
        if cloud.model.steps + 1 == step:
            cloud.completion.lifecycle.leave()
        return forward(segments)

    cloud.model.forward = leaving  # type: ignore[method-assign]


async def test_a_leaving_cloud_serves_what_it_holds_and_says_so_in_every_report() -> None:
    async with served() as cloud:
        assert not (await cloud.report(ask(5))).leaving
        assert (await cloud.http.get(PATH_MANIFEST)).json()["draining"] is False
        cloud.completion.lifecycle.leave()
        after = (*TEXT[:5], full_choice(TEXT[:5]))
        more = await cloud.report(ask(6, 5, text=after, acknowledged=6))
        assert (more.leaving, more.tokens) == (True, (full_choice(after),))
        assert (await cloud.report(block(5, want=Want.NOTHING))).leaving
        assert (await cloud.http.get(PATH_MANIFEST)).json()["draining"] is True
        assert (
            await cloud.send(encode(Close(session=SESSION, revision=0)), PATH_CLOSE)
        ).status_code == 204


@pytest.mark.parametrize("path", [PATH_BLOCKS, PATH_STREAM])
@pytest.mark.parametrize("opening", [CLOUD_OPENING, None])
async def test_a_leaving_cloud_opens_no_session(path: str, opening: Opening | None) -> None:
    async with served() as cloud:
        cloud.completion.lifecycle.leave()
        asked = replace(ask(3, opening=CLOUD_OPENING), opening=opening)
        answer = await cloud.send(asked, path)
        fault = decode(answer.content, limit=LIMIT)
        assert isinstance(fault, Fault)
        assert (answer.status_code, fault.code, fault.retryable) == (503, "draining", True)
        assert int(answer.headers["retry-after"]) >= 1
        assert len(cloud.store) == cloud.model.steps == 0
        operation = "stream" if path == PATH_STREAM else "complete"
        assert cloud.outcomes() == {(operation, "draining"): 1}
        assert cloud.metrics.rejections.labels(reason="overloaded")._value.get() == 0


async def test_a_stream_ends_after_the_token_under_way_with_a_report_that_says_why() -> None:
    async with served() as cloud:
        stops_after(cloud, 3)
        told = await cloud.stream(ask(3, opening=CLOUD_OPENING, count=9))
        reports = [each for each in told if isinstance(each, Report)]
        assert [each.leaving for each in reports] == [False, False, True]
        assert len(reports) == len(told)
        assert reports[-1].through == 6


async def test_a_verified_stream_ends_so_too() -> None:
    async with served() as cloud:
        stops_after(cloud, 2)
        told = await cloud.stream(opened(now=9))
        reports = [each for each in told if isinstance(each, Report)]
        assert [each.leaving for each in reports] == [False, True]
        assert len(reports) == len(told)
        assert context_of(cloud).tokens == RIGHT[:5]
