"""Contexts with their logs in a store: what is asked of it and when, who may write, and what
happens when it is not there.
"""

import asyncio
from dataclasses import replace

import pytest

from shared.errors import Fenced, Mismatch
from shared.protocol.messages import Opening
from tests.support.fake_logs import FakeLogs
from tests.unit.cloud.replicas import Replica
from tests.unit.cloud.sessions import OPENING, SESSION, block


async def test_an_opening_asks_once_and_each_save_once() -> None:
    replica = Replica(FakeLogs())
    await replica.take(block(4))
    assert replica.asked() == [("claim", "missing"), ("replace", "ok")]
    await replica.take(block(6, 4))
    assert replica.asked() == [("append", "ok")]
    await replica.take(block(6, 4))
    assert replica.asked() == [], "nothing had changed"
    async with replica.store.using("other", None, 0) as unknown:
        assert unknown is None
    assert replica.asked() == [("claim", "missing")]


async def test_requests_that_come_at_once_load_a_session_once() -> None:
    logs = FakeLogs()
    await Replica(logs).take(block(4))
    other = Replica(logs)
    first, second = await asyncio.gather(other.take(block(6, 4)), other.take(block(6, 4)))
    assert first is second
    assert [asked for asked in other.asked() if asked[0] == "claim"] == [("claim", "ok")]


async def test_a_later_revision_takes_the_session_and_the_earlier_writes_no_more() -> None:
    logs = FakeLogs()
    old, new = Replica(logs), Replica(logs)
    await old.take(block(4))
    taken = await new.take(block(6, 4, revision=1))
    assert (taken.through, taken.revision) == (6, 1)
    old.asked()
    with pytest.raises(Fenced) as fenced:
        await old.take(block(5, 4))
    assert fenced.value.revision == 1
    assert old.asked() == [("append", "fenced")]
    with pytest.raises(Fenced):
        await old.take(block(6, 4))
    assert old.asked() == [], "it is known to be fenced"
    back = await old.take(block(8, 6, revision=2))
    assert (back.through, back.revision) == (8, 2)


async def test_a_replica_behind_at_its_own_revision_takes_over_what_the_other_stored() -> None:
    logs = FakeLogs()
    one, two = Replica(logs), Replica(logs)
    await one.take(block(4))
    await two.take(block(4))
    await one.take(block(7, 4))
    assert (await two.take(block(7, 4))).digests == (await one.take(block(7, 4))).digests
    assert ("append", "behind") in two.asked()
    assert len(logs.kept[SESSION].entries) == 2
    # It had all of it itself: only what changes a context makes a request be done over.
    assert two.behind == 0
    await one.take(block(9, 7))
    await two.take(block(8, 7))
    assert two.behind == 1


async def test_a_store_that_lost_everything_is_given_the_whole_log() -> None:
    logs = FakeLogs()
    replica = Replica(logs)
    await replica.take(block(4))
    logs.kept.clear()
    await replica.take(block(6, 4))
    assert replica.asked()[-2:] == [("append", "missing"), ("replace", "ok")]
    other = Replica(logs)
    async with other.held() as context:
        assert context is not None
        assert context.through == 6


async def test_without_the_store_a_session_goes_on_and_is_stored_when_it_is_back() -> None:
    logs = FakeLogs()
    replica = Replica(logs)
    await replica.take(block(4))
    logs.down = True
    await replica.take(block(5, 4))
    await replica.take(block(6, 5))
    assert replica.asked()[2:] == [("append", "failed"), ("append", "skipped")]
    logs.down = False
    await replica.take(block(7, 6))
    assert replica.asked() == [("append", "skipped")]
    replica.now = 0.51
    await replica.take(block(8, 7))
    assert replica.asked() == [("append", "ok")]
    assert replica.seen.up == [False, True]
    other = Replica(logs)
    async with other.held() as context:
        assert context is not None
        assert context.through == 8


async def test_the_store_is_left_alone_for_longer_and_longer_and_nobody_waits_for_it() -> None:
    logs = FakeLogs(down=True)
    replica = Replica(logs)
    for rest in (0.5, 1, 2, 4, 8, 8):
        assert len(logs.asked) == len(replica.seen.answers)
        await replica.take(block(4, session=f"s{rest}"), f"s{rest}")
        before = len(logs.asked)
        replica.now += rest - 0.01
        await replica.take(block(5, 4, session=f"s{rest}"), f"s{rest}")
        assert len(logs.asked) == before
        replica.now += 0.02
        replica.seen.answers = [("", "")] * before
    assert replica.seen.up == [False]


async def test_a_write_whose_answer_was_lost_is_not_made_twice() -> None:
    logs = FakeLogs()
    replica = Replica(logs)
    await replica.take(block(4))
    logs.after_writing = True
    await replica.take(block(6, 4))
    logs.after_writing, replica.now = False, 1.0
    context = await replica.take(block(8, 6))
    assert context.through == 8
    assert ("append", "behind") in replica.asked()
    assert len(logs.kept[SESSION].entries) == 3


async def test_a_slow_store_keeps_nobody_waiting() -> None:
    class Slow(FakeLogs):
        async def _asked(self, operation: str) -> None:
            await asyncio.sleep(60)

    replica = Replica(Slow(), timeout=0.01)
    async with asyncio.timeout(30):
        assert (await replica.take(block(4))).through == 4
    assert replica.asked() == [("claim", "failed"), ("replace", "skipped")]


async def test_a_damaged_log_is_used_as_far_as_it_is_sound_and_written_anew() -> None:
    logs = FakeLogs()
    first = Replica(logs)
    for stop in (4, 6, 8):
        await first.take(block(stop, {4: 0, 6: 4, 8: 6}[stop]))
    logs.kept[SESSION].entries[2] = b"Cbroken"
    other = Replica(logs)
    context = await other.take(block(8, 6))
    assert other.seen.damaged == 1
    assert context.through == 8
    assert other.asked()[-1] == ("replace", "ok")
    third = Replica(logs)
    async with third.held() as again:
        assert again is not None
        assert again.digests == context.digests
    assert third.seen.damaged == 0


async def test_a_key_the_log_was_not_written_with_is_damage_and_the_edge_is_asked() -> None:
    logs = FakeLogs()
    await Replica(logs, key="ab" * 32).take(block(4))
    other = Replica(logs, key="cd" * 32)
    async with other.store.using(SESSION, None, 0) as context:
        assert context is None
    assert other.seen.damaged == 1


async def test_a_closed_session_leaves_only_that_it_was_closed() -> None:
    logs = FakeLogs()
    one, two = Replica(logs), Replica(logs)
    await one.take(block(4))
    await two.take(block(4))
    assert await one.store.close(SESSION, 0)
    assert (logs.kept[SESSION].closed, logs.kept[SESSION].nbytes) == (True, 0)
    for late in (one, two):
        with pytest.raises(Fenced):
            await late.take(block(6, 4))
    with pytest.raises(Fenced):
        await Replica(logs).take(block(4))
    assert len(one.store) == len(two.store) == 0
    assert (await one.take(block(4, revision=1))).through == 4


async def test_a_close_of_an_earlier_revision_changes_nothing() -> None:
    logs = FakeLogs()
    old, new = Replica(logs), Replica(logs)
    await old.take(block(4))
    await new.take(block(4, revision=1))
    await old.store.close(SESSION, 0)
    assert not logs.kept[SESSION].closed
    assert not await new.store.close(SESSION, 0)
    assert (await new.take(block(6, 4, revision=1))).through == 6


async def test_a_session_its_client_has_no_room_for_lives_in_memory() -> None:
    logs = FakeLogs(bytes_per_client=700)
    replica = Replica(logs)
    await replica.take(block(4))
    for stop in (6, 8, 10):
        await replica.take(block(stop, stop - 2))
    assert ("append", "dropped") in replica.asked()
    assert logs.kept[SESSION].nbytes == 0
    assert (await replica.take(block(10, 8))).through == 10


async def test_a_log_that_says_little_for_its_size_is_written_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.cloud.contexts.durable._SPARE_BYTES", 500)
    logs = FakeLogs()
    replica = Replica(logs)
    await replica.take(block(3))
    for stop in range(4, 11):
        await replica.take(block(stop, stop - 1))
    assert ("replace", "ok") in replica.asked()[2:]
    async with Replica(logs).held() as context:
        assert context is not None
        assert context.through == 10


async def test_a_session_opened_otherwise_is_refused_by_its_log() -> None:
    logs = FakeLogs()
    await Replica(logs).take(block(4))
    other = Replica(logs)
    with pytest.raises(Mismatch):
        await other.take(block(4, opening=replace(OPENING, prompt_tokens=2)))
    assert len(other.store) == 0


async def test_a_log_this_cloud_does_not_serve_is_refused() -> None:
    logs = FakeLogs()
    await Replica(logs).take(block(4))
    other = Replica(logs)

    def fits(opening: Opening) -> None:
        raise Mismatch({"fingerprint": (opening.fingerprint, "another")})

    other.store._form = replace(other.store._form, fits=fits)
    with pytest.raises(Mismatch):
        async with other.held():
            pass
    assert len(other.store) == 0
