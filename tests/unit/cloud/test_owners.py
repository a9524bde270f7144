"""A session is its owner's: nobody else finds it, in memory or in a store."""

from dataclasses import replace

import httpx
import pytest

from services.cloud.contexts import Context, key_of
from services.cloud.contexts.sealing import place_of
from services.cloud.routes import RULES
from shared.access import Doorkeeper, Key, KeyRing, Scope, digest_of
from shared.errors import Fenced, NotFound
from shared.protocol.messages import Block, Close, Fault, Report
from shared.protocol.version import MEDIA_TYPE, PATH_BLOCKS, PATH_CLOSE, PATH_STREAM
from shared.protocol.wire import decode, encode
from shared.web.access import Access
from tests.support.fake_logs import FakeLogs
from tests.support.toy_cloud import LIMIT, toy_cloud
from tests.support.toy_model import WIDTH
from tests.unit.cloud.replicas import Replica
from tests.unit.cloud.sessions import CLOUD_OPENING, OPENING, SESSION, ask, block
from tests.unit.cloud.shelf import Shelf


async def test_whoever_goes_on_with_anothers_session_is_told_that_there_is_none() -> None:
    shelf = Shelf()
    async with shelf.store.using("a", CLOUD_OPENING, 0, "berlin") as context:
        assert context is not None
        context.apply(block(3, opening=CLOUD_OPENING, session="a"))
    for stranger in ("", "paris", "berlin:a"):
        with pytest.raises(NotFound, match=r"^no such session$"):
            async with shelf.store.using("a", None, 0, stranger):
                pass
        with pytest.raises(NotFound, match=r"^no such session$"):
            await shelf.store.close("a", 7, stranger)
    async with shelf.store.using("a", None, 0, "berlin") as found:
        assert found is context


async def test_an_opening_of_the_same_name_is_a_session_of_ones_own() -> None:
    shelf = Shelf()
    async with (
        shelf.store.using("a", CLOUD_OPENING, 0, "berlin") as theirs,
        shelf.store.using("a", CLOUD_OPENING, 0, "paris") as mine,
    ):
        assert mine is not None
        assert theirs is not None
        assert mine is not theirs
        # Both as the edge named it: digests and reports tell nothing of owners.
        assert (mine.session, mine.digests) == (theirs.session, theirs.digests)


async def test_who_closes_a_name_closes_it_for_itself() -> None:
    shelf = Shelf()
    await shelf.store.close("a", 9, "paris")
    async with shelf.store.using("a", CLOUD_OPENING, 0, "berlin") as context:
        assert context is not None
    with pytest.raises(Fenced):
        async with shelf.store.using("a", CLOUD_OPENING, 0, "paris"):
            pass


def test_no_owner_has_anothers_keys_and_those_without_have_the_plain_ids() -> None:
    assert key_of("", SESSION) == SESSION
    assert place_of(key_of("", "s"), "log", 2) == b"s/log/2"
    keys = {key_of(owner, session) for owner in ("", "a", "b") for session in ("a", "b", "s")}
    assert len(keys) == 9


def test_what_clients_are_counted_under_is_their_edges_owners() -> None:
    def client(owner: str) -> str:
        context = Context(SESSION, OPENING, hidden=WIDTH, owner=owner)
        assert context.claim.client == context.client
        return context.client

    assert client("") == OPENING.client
    assert len({client(""), client("berlin"), client("paris")}) == 3


@pytest.mark.parametrize("key", ["", "ab" * 32])
async def test_a_replica_reads_no_other_owners_log(key: str) -> None:
    logs = FakeLogs()
    one, two = Replica(logs, key), Replica(logs, key)
    async with one.store.using(SESSION, OPENING, 0, "berlin") as context:
        assert context is not None
        async with context.turn:
            context.apply(block(4))
            await one.store.save(context)
    assert set(logs.kept) == {f"berlin:{SESSION}"}
    assert logs.kept[f"berlin:{SESSION}"].client == f"berlin:{OPENING.client}"
    for stranger in ("", "paris"):
        async with two.store.using(SESSION, None, 1, stranger) as unknown:
            assert unknown is None
        assert not await two.store.close(SESSION, 5, stranger)
    async with two.store.using(SESSION, None, 1, "berlin") as found:
        assert found is not None
        assert found.through == 4


async def test_a_log_put_into_anothers_place_is_damaged() -> None:
    logs = FakeLogs()
    one, two = Replica(logs), Replica(logs)
    await one.take(block(4))
    logs.kept[f"paris:{SESSION}"] = logs.kept[SESSION]
    async with two.store.using(SESSION, None, 1, "paris") as found:
        assert found is None
    assert two.seen.damaged > 0


@pytest.mark.parametrize("durable", [False, True])
async def test_over_http_a_session_is_the_owners_of_the_key(*, durable: bool) -> None:
    sessions: frozenset[Scope] = frozenset({"sessions"})
    owners = {"first": "berlin", "second": "berlin", "other": "paris"}
    ring = KeyRing(
        Key(key, digest_of(key), "bearer", sessions, owner) for key, owner in owners.items()
    )
    async with toy_cloud(logs=FakeLogs() if durable else None) as cloud:
        door = Access(cloud.app, Doorkeeper(lambda: ring, sessions), RULES)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(door), base_url="http://cloud"
        ) as http:

            async def send(key: str, message: Block | Close, path: str) -> tuple[int, object]:
                headers = {"accept": MEDIA_TYPE, "content-type": MEDIA_TYPE}
                headers |= {"authorization": f"Bearer {key}"} if key else {}
                answer = await http.post(path, content=encode(message), headers=headers)
                content = answer.content
                return answer.status_code, decode(content, limit=LIMIT) if content else None

            going_on = replace(ask(4, 3, opening=CLOUD_OPENING), opening=None)
            status, report = await send("first", ask(3, opening=CLOUD_OPENING), PATH_BLOCKS)
            assert status == 200
            assert isinstance(report, Report)
            closing = Close(session=SESSION, revision=5)
            for stranger in ("other", ""):
                for message, path in (
                    (going_on, PATH_BLOCKS),
                    (going_on, PATH_STREAM),
                    (closing, PATH_CLOSE),
                ):
                    status, fault = await send(stranger, message, path)
                    assert status == 404, path
                    assert isinstance(fault, Fault)
                    assert (fault.code, fault.message) == ("not_found", "no such session")
            # Another key of the same owner goes on with it.
            assert (await send("second", going_on, PATH_BLOCKS))[0] == 200
            assert (await send("second", going_on, PATH_STREAM))[0] == 200
            assert (await send("second", closing, PATH_CLOSE))[0] == 204
            assert len(cloud.store) == 0
