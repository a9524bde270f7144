"""A session that was closed is not opened again by what comes late, nor one that has gone on."""

import pytest

from shared.errors import Fenced
from tests.unit.cloud.sessions import CLOUD_OPENING
from tests.unit.cloud.shelf import Shelf


async def test_a_closed_session_is_not_opened_again_by_a_block_that_comes_late() -> None:
    shelf = Shelf()
    shelf.fill("a", revision=2)
    assert not await shelf.store.close("a", 1), "it has gone on since"
    assert await shelf.store.close("a", 2)
    for late in (0, 2):
        with pytest.raises(Fenced) as fenced:
            async with shelf.store.using("a", CLOUD_OPENING, late):
                pass
        assert fenced.value.revision == 2
    async with shelf.store.using("a", None, 0) as unknown:
        assert unknown is None
    shelf.fill("a", revision=3)
    assert await shelf.store.close("a", 3)
    shelf.now = 61
    shelf.fill("a")
    assert shelf.held("a") == [True]


async def test_a_session_closed_where_it_never_was_is_not_opened_by_a_late_block_either() -> None:
    shelf = Shelf()
    assert not await shelf.store.close("a", 0)
    with pytest.raises(Fenced):
        shelf.fill("a")


async def test_only_so_many_closed_sessions_are_remembered() -> None:
    shelf = Shelf(max_contexts=2)
    for n in range(100):
        await shelf.store.close(f"s{n}", 0)
    assert len(shelf.store._closed) == 8
    shelf.fill("s0")
    with pytest.raises(Fenced):
        shelf.fill("s99")


async def test_a_later_revision_fences_an_earlier_one_on_the_way_in() -> None:
    shelf = Shelf()
    shelf.fill("a", revision=3)
    with pytest.raises(Fenced):
        async with shelf.store.using("a", None, 2):
            pass
