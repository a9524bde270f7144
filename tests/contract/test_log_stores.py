"""Redis keeps logs as the fake does, whatever is asked of both: so what is tried on the fake holds
for Redis.
"""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from services.cloud.contexts import redis as redis_module
from services.cloud.contexts.log_store import Addition, Claimed, Outcome
from services.cloud.contexts.redis import RedisLogs
from tests.support.fake_logs import FakeLogs
from tests.support.redis_server import RedisServer, redis_server

T = TypeVar("T")
BUDGET = 100
sessions = st.sampled_from(["a", "b", "c"])
clients = st.sampled_from(["", "ab"])
revisions = st.integers(0, 2)
writers = st.integers(0, 1)
entries = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5)


class Stores(RuleBasedStateMachine):
    """The same questions to both."""

    server: RedisServer

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.server.flush()
        self.real = RedisLogs(self.server.url, ttl_seconds=600, bytes_per_client=BUDGET)
        self.fake = FakeLogs(bytes_per_client=BUDGET, ttl_seconds=600, chunk=1000)
        # What each writer knows, rightly or not: (log, entries) by writer and session.
        self.known: dict[tuple[int, str], tuple[str, int]] = {}
        self.names = 0

    def teardown(self) -> None:
        self.run(self.real.aclose())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        self.fake.now += 0.01
        return self.loop.run_until_complete(work)

    @rule(writer=writers, session=sessions, revision=revisions)
    def claim(self, writer: int, session: str, revision: int) -> None:
        real, fake = self.run(_both(self.real.claim, self.fake.claim, session, revision))
        assert _told(real) == _told(fake)
        if real.outcome is Outcome.OK:
            self.known[writer, session] = (real.log, real.count)

    @rule(
        writer=writers,
        session=sessions,
        revision=revisions,
        client=clients,
        entries=entries,
        anew=st.booleans(),
    )
    def write(self, writer: int, session: str, revision: int, **written: Any) -> None:
        client, entries, anew = written["client"], written["entries"], written["anew"]
        log, count = self.known.get((writer, session), ("", 0))
        name = ""
        if anew or not log:
            self.names += 1
            name = f"log{self.names}"
        addition = Addition(
            session=session,
            client=client,
            revision=revision,
            log=log,
            count=count,
            entries=entries,
            anew=name,
        )
        real, fake = self.run(_both(self.real.write, self.fake.write, addition))
        assert real == fake
        if real.outcome is Outcome.OK:
            self.known[writer, session] = (name or log, len(entries) + (0 if name else count))

    @rule(writer=writers, session=sessions, start=st.integers(0, 6))
    def read(self, writer: int, session: str, start: int) -> None:
        log, _ = self.known.get((writer, session), ("other", 0))
        if not log:
            return
        real, fake = self.run(_both(self.real.read, self.fake.read, session, log, start))
        assert _told(real) == _told(fake)

    @rule(session=sessions, revision=revisions)
    def close(self, session: str, revision: int) -> None:
        real, fake = self.run(_both(self.real.close, self.fake.close, session, revision))
        assert real == fake

    @rule(session=sessions)
    def expire(self, session: str) -> None:
        """What Redis does by its clock, done now."""
        kept = self.fake.kept.get(session)
        if kept is not None:
            self.fake.now += 0.01
            kept.expires = self.fake.now
        self.server.command("DEL", f"tandem:session:{session}", f"tandem:log:{session}")
        for client in ("", "ab"):
            self.server.command("ZADD", f"tandem:client:{client}", "XX", "1", session)

    @invariant()
    def books_are_exact(self) -> None:
        for client in ("", "ab"):
            live = self.fake.used(client)
            books = self.run(self._books(client))
            total = books.pop("*", 0)
            assert total == sum(books.values()) <= BUDGET
            expired = {session for session in books if session not in live}
            assert {s: n for s, n in books.items() if s not in expired} == live
            # They go with the client's next write.
            scores = self.run(self._scores(client))
            assert all(scores[session] == 1 for session in expired)

    async def _books(self, client: str) -> dict[str, int]:
        held = await self.real._redis.hgetall(f"tandem:client:{client}:bytes")
        return {session.decode(): int(nbytes) for session, nbytes in held.items()}

    async def _scores(self, client: str) -> dict[str, float]:
        held = await self.real._redis.zrange(f"tandem:client:{client}", 0, -1, withscores=True)
        return {session.decode(): score for session, score in held}


def test_redis_answers_as_the_fake_does(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        Stores.server = server
        run_state_machine_as_test(
            Stores,
            settings=settings(max_examples=4 * settings().max_examples, stateful_step_count=30),
        )


async def test_a_writer_that_missed_an_entry_is_behind_and_one_that_was_evicted_is_told(
    tmp_path: Path,
) -> None:
    with redis_server(tmp_path) as server:
        real = RedisLogs(server.url, ttl_seconds=600, bytes_per_client=BUDGET)
        for store in (real, FakeLogs(bytes_per_client=BUDGET)):

            async def write(
                session: str, log: str, count: int, size: int, anew: str = "", at: Any = store
            ) -> Outcome:
                addition = Addition(
                    session=session,
                    client="x",
                    revision=0,
                    log=log,
                    count=count,
                    entries=[b"x" * size],
                    anew=anew,
                )
                outcome: Outcome = (await at.write(addition)).outcome
                return outcome

            assert await write("a", "", 0, 10, "l") is Outcome.OK
            assert await write("a", "l", 1, 10) is Outcome.OK
            assert await write("a", "l", 1, 10) is Outcome.BEHIND
            assert await write("b", "", 0, 90, "m") is Outcome.OK
            assert await write("a", "l", 2, 10) is Outcome.DROPPED
            assert await write("a", "", 0, 20, "n") is Outcome.OK, "who knows it has none may"
            assert (await store.claim("b", 0)).log == ""
        await real.aclose()


async def test_a_long_log_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "CHUNK_BYTES", 1000)
    entries = [bytes([n % 256]) * 100 for n in range(200)]
    with redis_server(tmp_path) as server:
        logs = RedisLogs(server.url, ttl_seconds=60, bytes_per_client=1 << 20)
        addition = Addition(
            session="a", client="", revision=0, log="", count=0, entries=entries, anew="l"
        )
        assert (await logs.write(addition)).outcome is Outcome.OK
        claimed = await logs.claim("a", 0)
        found = list(claimed.entries)
        assert (claimed.count, len(found)) == (200, 16)
        while len(found) < claimed.count:
            found += (await logs.read("a", "l", len(found))).entries
        assert found == entries
        await logs.aclose()


async def test_what_is_not_written_to_expires_with_all_its_books(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        logs = RedisLogs(server.url, ttl_seconds=60, bytes_per_client=1 << 20)
        for session in "abc":
            addition = Addition(
                session=session, client="x", revision=0, log="", count=0, entries=[b"1"], anew="l"
            )
            await logs.write(addition)
        keys = await logs._redis.keys("*")
        assert len(keys) == 8
        for key in keys:
            assert 0 < await logs._redis.pttl(key) <= 60_000, key
        await logs.aclose()


async def _both(real: Any, fake: Any, *asked: Any) -> tuple[Any, Any]:
    return await real(*asked), await fake(*asked)


def _told(claimed: Claimed) -> tuple[object, ...]:
    entries = [bytes(entry) for entry in claimed.entries]
    return (claimed.outcome, claimed.revision, claimed.log, claimed.count, entries)
