"""Rooms for KV: what they hold is what is counted, and given back it is gone."""

import mmap
from pathlib import Path

import pytest
import torch

from shared.errors import OutOfMemory
from shared.model import SpanModel, pool
from shared.model.pool import Buffers, Layout, Pool, Room, Slab, Slot
from tests.support.tiny_models import DEPTH, feed, prompt, whole


def layout(**changed: object) -> Layout:
    sizes: dict[str, object] = {
        "layers": 3,
        "kv_heads": 2,
        "head_dim": 24,
        "positions": 500,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
    }
    return Layout(**(sizes | changed))  # type: ignore[arg-type]


def slot_of(room: Room) -> Slot:
    assert isinstance(room, Slot)
    return room


def resident(slab: Slab) -> int:
    """Bytes of memory a slab's addresses have, by the system's own account."""
    address = f"{slab.rows.data_ptr():x}-"
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = next(line for line in lines if line.startswith(address))
    assert "rw-p" in found
    size = next(line for line in lines if line.startswith("Rss:"))
    return int(size.split()[1]) * 1024


@pytest.mark.parametrize(
    ("head_dim", "dtype", "rows"),
    [
        (64, torch.bfloat16, 64),
        (128, torch.float32, 64),
        (24, torch.float32, 128),
        (8, torch.float32, 128),
        (80, torch.bfloat16, 128),
    ],
)
def test_a_page_is_whole_pages_of_the_system_for_each_head(
    head_dim: int, dtype: torch.dtype, rows: int
) -> None:
    made = layout(head_dim=head_dim, dtype=dtype)
    assert made.page_rows == rows
    assert rows * head_dim * dtype.itemsize % mmap.PAGESIZE == 0
    assert made.capacity % rows == 0
    assert made.whole_pages(rows + 1) == 2 * rows


@pytest.mark.parametrize("rows", [1, 128, 129, 300])
def test_memory_held_is_the_pages_counted(rows: int) -> None:
    taken = slot_of(Pool(layout()).take())
    assert resident(taken.slab) == 0
    for layer in (0, 2):
        taken.layer(layer)[:, :, :rows] = 1.0
    made = layout()
    counted = 2 * made.whole_pages(rows) * made.row_bytes
    # The last page's memory comes as its rows are written.
    unwritten = 0 if rows % made.page_rows == 0 else 2 * made.page_rows * made.row_bytes
    assert counted - unwritten <= resident(taken.slab) <= counted
    taken.layer(0)[:, :, : made.whole_pages(rows)] = 1.0
    taken.layer(2)[:, :, : made.whole_pages(rows)] = 1.0
    assert resident(taken.slab) == counted
    taken.release()
    assert resident(taken.slab) == 0


def test_no_huge_page_holds_more_than_is_written() -> None:
    slab = slot_of(Pool(layout()).take()).slab
    address = f"{slab.rows.data_ptr():x}-"
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    assert any(line.startswith(address) for line in lines)
    flags = next(line for line in lines if line.startswith("VmFlags:"))
    assert "nh" in flags.split()


def test_a_room_given_back_reads_as_zeros_to_the_next() -> None:
    rooms = Pool(layout())
    first = slot_of(rooms.take())
    first.layer(1)[:] = torch.nan
    first.release()
    again = slot_of(rooms.take())
    assert (again.slab, again.number) == (first.slab, first.number)
    assert not again.layer(1).any()


def test_the_lowest_free_room_is_taken_and_another_slab_only_when_one_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "SLAB_SLOTS", 4)
    rooms = Pool(layout())
    taken = [slot_of(rooms.take()) for _ in range(6)]
    assert [room.number for room in taken] == [0, 1, 2, 3, 0, 1]
    assert taken[0].slab is taken[3].slab is not taken[4].slab
    for room in (taken[5], taken[2], taken[1]):
        room.release()
    assert slot_of(rooms.take()).number == 1
    assert slot_of(rooms.take()).number == 2
    assert slot_of(rooms.take()).slab is taken[4].slab


def test_less_address_space_makes_smaller_slabs_and_none_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapped = pool._mapped
    most = 5 * layout().slot_bytes

    def scarce(count: int) -> mmap.mmap:
        if count > most:
            raise OSError(12, "Cannot allocate memory")
        return mapped(count)

    monkeypatch.setattr(pool, "_mapped", scarce)
    assert slot_of(Pool(layout()).take()).slab.slots == 4
    most = 1
    with pytest.raises(OutOfMemory, match="address space"):
        Pool(layout()).take()


def test_a_session_of_too_many_rows_is_refused() -> None:
    taken = slot_of(Pool(layout()).take())
    taken.grow(0, 0, layout().capacity)
    with pytest.raises(OutOfMemory, match="rows of one session"):
        taken.grow(0, 0, layout().capacity + 1)


def test_views_kept_are_few_and_those_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEPT_VIEWS", 2)
    slab = slot_of(Pool(layout()).take()).slab
    first = slab.read(0, 2, range(1, 3), 64)
    keys, values = first
    assert [tuple(part.shape) for part in (*keys, *values)] == [(2, 2, 64, 24)] * 4
    slab.rows[1, 2, 1, 0, 63] = 7.0
    assert bool((values[1][1, 0, 63] == 7.0).all())
    assert slab.read(0, 2, range(1, 3), 64) is first
    slab.read(0, 1, range(3), 64)
    slab.read(0, 2, range(1, 3), 64)
    slab.read(0, 3, range(3), 64)
    assert slab.read(0, 2, range(1, 3), 64) is first


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> SpanModel:
    """A model whose KV lies as on a device without page tables of ours."""
    monkeypatch.setattr(Pool, "take", lambda self: Buffers(self.layout))
    return whole("gemma3")


def test_buffers_that_grow_hold_what_ranges_hold(growing: SpanModel) -> None:
    ids = prompt(200)
    with growing.new_cache() as kv:
        parts = [feed(growing, kv, part) for part in ids.split([3, 1, 124, 1, 1, 70])]
        assert isinstance(kv.room, Buffers)
        assert kv.nbytes == growing.kv_bytes
        assert sum(kv.buffer(n).nbytes for n in range(DEPTH)) == kv.nbytes
    with growing.new_cache() as kv:
        torch.testing.assert_close(torch.cat(parts), feed(growing, kv, ids), atol=2e-5, rtol=1e-4)
    assert growing.kv_bytes == 0


def test_a_device_without_room_is_out_of_memory(
    growing: SpanModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = growing.new_cache()
    feed(growing, kv, prompt(4))

    def none(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.Tensor, "new_empty", none)
    before = growing.kv_bytes
    with pytest.raises(OutOfMemory, match="device has no room"):
        feed(growing, kv, prompt(200))
    assert (growing.kv_bytes, kv.length(0)) == (before, 4)
