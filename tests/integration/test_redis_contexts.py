"""The cloud with a real Redis: sessions go from one replica to another, and on when Redis dies."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from services.cloud.contexts.log_store import Addition, Away, Refused
from services.cloud.contexts.redis import RedisLogs
from shared.protocol.messages import Block, Fault, Report
from shared.protocol.wire import decode, encode
from tests.support.redis_server import redis_server
from tests.support.toy_cloud import ToyCloud, toy_cloud
from tests.unit.cloud.served import HEADERS
from tests.unit.cloud.sessions import ask

LIMIT = 1 << 16


async def _report(cloud: ToyCloud, block: Block) -> Report | Fault:
    transport = httpx.ASGITransport(cloud.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as http:
        answer = await http.post("/v1/blocks", content=encode(block), headers=HEADERS)
    message = decode(answer.content, limit=LIMIT)
    assert isinstance(message, Report | Fault)
    return message


@pytest.mark.parametrize("key", ["", "ab" * 32], ids=["checksum", "encrypted"])
async def test_a_session_goes_on_at_another_replica_and_without_redis(
    tmp_path: Path, key: str
) -> None:
    with redis_server(tmp_path, password="secret") as server:

        def logs() -> RedisLogs:
            return RedisLogs(server.url, ttl_seconds=60, bytes_per_client=1 << 20)

        one, two, three = logs(), logs(), logs()
        async with (
            toy_cloud(logs=one, key=key) as first,
            toy_cloud(logs=two, key=key) as second,
            toy_cloud(logs=three, key=key) as third,
        ):
            told = await _report(first, ask(6))
            again = await _report(second, ask(6, revision=1))
            assert isinstance(told, Report)
            assert isinstance(again, Report)
            assert (again.through, again.tokens) == (told.through, told.tokens)
            assert again.passes == told.passes, "it was answered from the log"
            late = await _report(first, ask(7, 6, text=(*ask(6).tokens, 7)))
            assert isinstance(late, Fault)
            assert (late.code, late.revision) == ("fenced", 1)
            server.kill()
            alone = await _report(second, ask(8, 6, revision=1))
            assert isinstance(alone, Report)
            assert alone.through == 9
            server.start()
            back = await _report(second, ask(9, 8, revision=1))
            assert isinstance(back, Report)
            moved = await _report(third, replace(ask(9, 8, revision=2), opening=None))
            assert isinstance(moved, Report)
            assert (moved.through, moved.digest) == (back.through, back.digest)
            assert moved.passes == back.passes
            await second.store.close("session-1", 2)
            await third.store.close("session-1", 2)
            assert server.keys() == 1, "only that it was closed"
        for each in (one, two, three):
            await each.aclose()


async def test_a_question_given_up_leaves_no_answer_for_the_next(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        logs = RedisLogs(server.url, ttl_seconds=60, bytes_per_client=1 << 20)
        assert (await logs.claim("a", 0)).outcome == "missing"
        await logs.close("b", 3)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await logs.claim("b", 0)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert (await logs.claim("a", 0)).outcome == "missing"
        assert (await logs.claim("b", 0)).outcome == "closed"
        server.kill()
        with pytest.raises(Away):
            await logs.claim("a", 0)
        await logs.aclose()


async def test_a_redis_that_is_full_refuses_and_is_still_there(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--maxmemory", "100kb") as server:
        logs = RedisLogs(server.url, ttl_seconds=60, bytes_per_client=1 << 30)
        full = Addition(
            session="a", client="", revision=0, log="", count=0, entries=[b"x" * 1000], anew="l"
        )
        with pytest.raises(Refused, match="OutOfMemory"):
            await logs.write(full)
        assert (await logs.claim("a", 0)).outcome == "missing"
        await logs.close("a", 0)
        await logs.aclose()
