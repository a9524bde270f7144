"""The store in memory: what goes first when room is short, and that every byte is given back."""

from collections import Counter
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Mismatch, Overloaded
from shared.model import KVCache
from tests.unit.cloud.sessions import CLOUD_OPENING, block
from tests.unit.cloud.shelf import KV_BYTES, LOG_BYTES, Cache, Shelf


def test_bytes_are_those_of_logs_and_caches() -> None:
    shelf = Shelf()
    assert shelf.store.nbytes == 0
    shelf.fill("a", "b")
    assert shelf.store.nbytes == 2 * (LOG_BYTES + KV_BYTES)
    assert len(shelf.store) == 2


def test_a_session_not_opened_is_not_here() -> None:
    shelf = Shelf()
    assert shelf.held("a") == [False]
    assert not shelf.store.forget("a", 0)
    assert len(shelf.store) == 0


def test_a_second_opening_must_be_the_first_one_again() -> None:
    shelf = Shelf()
    (context,) = shelf.fill("a")
    with shelf.using("a", CLOUD_OPENING) as again:
        assert again is context
    with (
        pytest.raises(Mismatch),
        shelf.using("a", replace(CLOUD_OPENING, prompt_tokens=2)),
    ):
        pass
    assert context.users == 0


def test_a_session_whose_first_block_was_refused_is_not_kept() -> None:
    shelf = Shelf()
    with pytest.raises(ValueError, match="refused"), shelf.using("a", CLOUD_OPENING):
        raise ValueError("refused")
    assert (len(shelf.store), shelf.store.nbytes) == (0, 0)


def test_caches_go_before_logs_and_the_longest_idle_go_first() -> None:
    shelf = Shelf(budget_bytes=4 * (LOG_BYTES + KV_BYTES))
    a, b, c, d = shelf.fill("a", "b", "c", "d")
    with shelf.using("a", None):  # used again: no longer the oldest
        pass
    with shelf.using("d", None):
        shelf.store.make_room(d, KV_BYTES + 1)
    assert [context.cache is None for context in (a, b, c, d)] == [False, True, True, False]
    assert len(shelf.store) == 4, "a log went before every cache had gone"
    with shelf.using("d", None):
        shelf.store.make_room(d, 3 * KV_BYTES + 1)
    assert a.cache is None
    assert shelf.held("a", "b", "c", "d") == [True, False, True, True]
    assert d.cache is not None


def test_what_is_in_use_is_never_evicted() -> None:
    shelf = Shelf(budget_bytes=2 * (LOG_BYTES + KV_BYTES))
    a, b = shelf.fill("a", "b")
    with shelf.using("a", None), shelf.using("b", None):
        with pytest.raises(Overloaded, match="1 bytes more than the budget"):
            shelf.store.make_room(b, 1)
        assert a.cache is not None
        assert b.cache is not None
        assert len(shelf.store) == 2
    with shelf.using("b", None):
        shelf.store.make_room(b, 1)
    assert a.cache is None


def test_room_asked_for_is_taken_before_it_is_used() -> None:
    """Passes of several sessions run at once: the second must see what the first is about to
    hold.
    """
    shelf = Shelf(budget_bytes=2 * LOG_BYTES + 1500)
    with (
        shelf.using("a", CLOUD_OPENING) as first,
        shelf.using("b", CLOUD_OPENING) as second,
    ):
        assert first is not None
        assert second is not None
        shelf.store.make_room(first, 1000)
        with pytest.raises(Overloaded):
            shelf.store.make_room(second, 1000)
        assert shelf.store.nbytes == 1000
    assert shelf.store.nbytes == 0, "what was not used is not kept on the books"


def test_what_grows_while_in_use_is_counted() -> None:
    shelf = Shelf(budget_bytes=2 * (LOG_BYTES + KV_BYTES))
    a, b = shelf.fill("a", "b")
    with shelf.using("b", None):
        cast(Cache, b.cache).nbytes += KV_BYTES
        shelf.store.make_room(b, 0)
        assert a.cache is None
    assert shelf.store.nbytes == a.nbytes + b.nbytes == 2 * LOG_BYTES + 2 * KV_BYTES


def test_sessions_are_forgotten_after_their_time_to_live_unless_in_use() -> None:
    shelf = Shelf()
    shelf.fill("old", "busy")
    shelf.now = 30
    shelf.fill("new")
    with shelf.using("busy", None):
        shelf.now = 60
        assert shelf.store.sweep() == 0
        shelf.now = 61
        assert shelf.store.sweep() == 1
        assert shelf.held("old", "new") == [False, True]
    shelf.now = 200
    assert shelf.store.sweep() == 2
    assert shelf.store.nbytes == 0


def test_a_full_store_forgets_the_longest_idle_and_refuses_when_all_are_in_use() -> None:
    shelf = Shelf(max_contexts=2)
    shelf.fill("a", "b", "c")
    assert shelf.held("a", "b", "c") == [False, True, True]
    with (
        shelf.using("b", None),
        shelf.using("c", None),
        pytest.raises(Overloaded, match="all 2 contexts are in use"),
        shelf.using("d", CLOUD_OPENING),
    ):
        pass
    assert len(shelf.store) == 2


def test_a_session_closed_while_in_use_gives_its_cache_back_when_its_last_user_leaves() -> None:
    shelf = Shelf()
    shelf.fill("a")
    with shelf.using("a", None):
        with shelf.using("a", None):
            assert shelf.store.forget("a", 0)
            assert (len(shelf.store), shelf.store.nbytes) == (0, 0)
        assert shelf.released == []
    assert shelf.released == [id(shelf.made[0])]


def test_a_session_opened_again_while_its_old_self_is_in_use_is_another() -> None:
    shelf = Shelf()
    (old,) = shelf.fill("a")
    with shelf.using("a", None):
        shelf.store.forget("a", 0)
        (new,) = shelf.fill("a", revision=1)
    assert new is not old
    assert shelf.held("a") == [True]
    assert shelf.released == [id(shelf.made[0])]
    assert shelf.store.nbytes == new.nbytes


ACTIONS = st.tuples(
    st.sampled_from(["open", "use", "close", "sweep", "room", "sleep"]), st.sampled_from("abcde")
)


@given(actions=st.lists(ACTIONS, max_size=40))
def test_every_cache_is_given_back_exactly_once_whatever_happens(
    actions: list[tuple[str, str]],
) -> None:
    shelf = Shelf(budget_bytes=3 * (LOG_BYTES + KV_BYTES), max_contexts=4)
    for revision, (action, session) in enumerate(actions):
        match action:
            case "open" if shelf.held(session) == [False]:
                shelf.fill(session, revision=revision)
            case "close":
                shelf.store.forget(session, revision)
            case "sweep":
                shelf.store.sweep()
            case "sleep":
                shelf.now += 25
            case "room":
                with shelf.using(session, None, revision) as context:
                    if context is not None:
                        shelf.store.make_room(context, KV_BYTES)
        kept = [c for s in "abcde" if (c := shelf._find(s)) is not None]
        assert shelf.store.nbytes == sum(context.nbytes for context in kept)
        assert len(shelf.store) == len(kept) <= 4
    for session in "abcde":
        shelf.store.forget(session, len(actions))
    assert (len(shelf.store), shelf.store.nbytes) == (0, 0)
    assert Counter(shelf.released) == Counter(id(cache) for cache in shelf.made)


def test_what_befalls_contexts_is_told_once_each() -> None:
    shelf = Shelf(budget_bytes=3 * (LOG_BYTES + KV_BYTES), max_contexts=3)
    shelf.fill("a", "b", "c")
    assert shelf.store.forget("a", 0)
    assert not shelf.store.forget("a", 0)
    (context,) = shelf.fill("d")
    # Room for all that is held: first the idle ones' KV goes, then they themselves.
    with shelf.using("d", None):
        shelf.store.make_room(context, 2 * KV_BYTES)
    assert shelf.changes == {"opened": 4, "closed": 1, "kv_evicted": 2}
    shelf.fill("e")
    shelf.now = 100.0
    shelf.store.sweep()
    assert shelf.changes == {"opened": 5, "closed": 1, "kv_evicted": 2, "evicted": 1, "expired": 3}


def test_what_is_kept_of_ended_sessions_goes_before_anything_of_those_held() -> None:
    shelf = Shelf(budget_bytes=10 * KV_BYTES, prefix_bytes=4 * KV_BYTES)
    (held,) = shelf.fill("held")
    opening = replace(CLOUD_OPENING, client="ab", prompt_tokens=70, max_positions=80)
    long = tuple(n % 5 for n in range(70))
    with shelf.using("ended", opening) as context:
        assert context is not None
        context.apply(block(70, opening=opening, session="ended", text=long))
        shelf.made.append(Cache())
        context.cache = cast(KVCache, shelf.made[-1])
        shelf.store.prefixes.learn(context, whole=True)
    assert shelf.store.forget("ended", 0)
    assert (shelf.released, shelf.store.prefixes.nbytes) == ([], KV_BYTES)
    free = shelf.budget_bytes - shelf.store.nbytes - KV_BYTES
    shelf.store.make_room(held, free)
    assert shelf.released == []
    shelf.store.make_room(held, free + 1)
    assert shelf.released == [id(shelf.made[-1])]
    assert shelf.store.prefixes.nbytes == 0
    assert held.cache is cast(KVCache, shelf.made[0])
