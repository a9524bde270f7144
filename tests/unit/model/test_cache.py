"""KV caches: their rows, their bytes, and a forward that fails without harm."""

import threading

import pytest
import torch

from shared.errors import OutOfMemory
from shared.model import KVCache, Segment, SpanModel
from shared.model.cache import Ledger
from tests.support.tiny_models import DEPTH, feed, prompt, segment, whole


@pytest.fixture
def model() -> SpanModel:
    return whole("llama")


def page(model: SpanModel) -> int:
    """Rows of a page."""
    return model.kv_layout.page_rows


def row_bytes(model: SpanModel) -> int:
    shape = model.shape
    return 2 * shape.kv_heads * shape.head_dim * model.dtype.itemsize


def test_bytes_held_are_whole_pages(model: SpanModel) -> None:
    first, second = model.new_cache(), model.new_cache()
    assert (first.nbytes, model.kv_bytes) == (0, 0)
    feed(model, first, prompt(page(model)))
    assert first.nbytes == page(model) * DEPTH * row_bytes(model)
    feed(model, first, prompt(1))
    assert first.nbytes == 2 * page(model) * DEPTH * row_bytes(model)
    feed(model, second, prompt(1), stop=2)
    assert second.nbytes == page(model) * 2 * row_bytes(model)
    assert model.kv_bytes == first.nbytes + second.nbytes
    first.close()
    assert model.kv_bytes == second.nbytes
    second.close()
    first.close()
    assert model.kv_bytes == 0


def test_truncated_rows_leave_their_room_to_later_ones(model: SpanModel) -> None:
    with model.new_cache() as kv:
        feed(model, kv, prompt(50))
        held = model.kv_bytes
        kv.truncate(10)
        assert {kv.length(layer) for layer in range(DEPTH)} == {10}
        kv.truncate(30)
        assert {kv.length(layer) for layer in range(DEPTH)} == {10}
        feed(model, kv, prompt(50))
        assert model.kv_bytes == held
    assert model.kv_bytes == 0


def test_truncation_drops_positions_in_every_layer_whatever_its_length(model: SpanModel) -> None:
    kv = model.new_cache()
    states = feed(model, kv, prompt(9), stop=2)
    feed(model, kv, states[:6], start=2)
    kv.truncate(7)
    assert [kv.length(layer) for layer in range(DEPTH)] == [7, 7, 6, 6, 6]


def numbered(model: SpanModel, rows: int, *, layers: int = DEPTH) -> KVCache:
    """A cache whose lowest layers hold rows filled with their slots' numbers."""
    kv = model.new_cache()
    kv.grow(range(layers), rows)
    for layer in range(layers):
        kv.buffer(layer)[:, :, :rows] = torch.arange(rows, dtype=model.dtype).unsqueeze(-1)
    kv.extend(range(layers), rows)
    return kv


@pytest.mark.parametrize(
    ("base", "slots", "left"),
    [
        (4, [], [0, 1, 2, 3]),
        (4, [4, 5], [0, 1, 2, 3, 4, 5]),
        (4, [4, 6, 9], [0, 1, 2, 3, 4, 6, 9]),
        (4, [5, 6, 7, 8, 9], [0, 1, 2, 3, 5, 6, 7, 8, 9]),
        (0, [3, 8], [3, 8]),
        (10, [], list(range(10))),
    ],
)
def test_kept_slots_move_down_in_their_order(
    model: SpanModel, base: int, slots: list[int], left: list[int]
) -> None:
    kv = numbered(model, 10)
    kv.keep(base, slots)
    for layer in range(DEPTH):
        assert kv.length(layer) == len(left)
        expected = torch.tensor(left, dtype=model.dtype).view(1, 1, -1, 1)
        held = kv.buffer(layer)[:, :, : len(left)]
        assert torch.equal(held, expected.expand_as(held))


def test_keeping_moves_no_row_that_is_in_place(
    model: SpanModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = numbered(model, 10)
    monkeypatch.setattr(torch.Tensor, "index_select", None)
    kv.keep(4, [4, 5, 6])
    assert {kv.length(layer) for layer in range(DEPTH)} == {7}


def test_keeping_is_every_layers_that_has_rows_there(model: SpanModel) -> None:
    kv = numbered(model, 10, layers=3)
    kv.truncate(10)
    kv.extend([1], 7)
    kv.extend([2], 4)
    kv.keep(4, [5, 6, 8])
    assert [kv.length(layer) for layer in range(DEPTH)] == [7, 6, 4, 0, 0]
    assert kv.buffer(0)[0, 0, :7, 0].tolist() == [0, 1, 2, 3, 5, 6, 8]
    assert kv.buffer(1)[0, 0, :6, 0].tolist() == [0, 1, 2, 3, 5, 6]
    assert kv.buffer(2)[0, 0, :4, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("slots", "match"),
    [
        ([5, 5], "do not rise from 4"),
        ([6, 5], "do not rise from 4"),
        ([3, 5], "do not rise from 4"),
        ([5, 10], "slot 10 is kept where 10 rows are held"),
    ],
)
def test_slots_that_cannot_be_kept_are_refused_and_nothing_moves(
    model: SpanModel, slots: list[int], match: str
) -> None:
    kv = numbered(model, 10)
    kv.extend([2], 7)
    with pytest.raises(ValueError, match=match):
        kv.keep(4, slots)
    assert [kv.length(layer) for layer in range(DEPTH)] == [10, 10, 7, 10, 10]
    assert kv.buffer(0)[0, 0, :10, 0].tolist() == list(range(10))


def test_rows_beyond_the_budget_are_refused_before_anything_is_written(model: SpanModel) -> None:
    model.kv_budget_bytes = 2 * page(model) * DEPTH * row_bytes(model)
    caches = [model.new_cache() for _ in range(2)]
    calls: list[int] = []
    model.network.model.layers["0"].register_forward_pre_hook(lambda *_: calls.append(1))
    feed(model, caches[0], prompt(40))
    before = (len(calls), model.kv_bytes, caches[0].buffer(0)[:, :, :40].clone())
    with pytest.raises(OutOfMemory, match="do not fit"):
        model.forward(
            [
                segment(caches[0], 0, DEPTH, prompt(100)),
                segment(caches[1], 0, DEPTH, prompt(1)),
            ]
        )
    assert (len(calls), model.kv_bytes) == before[:2]
    assert torch.equal(caches[0].buffer(0)[:, :, :40], before[2])
    assert [kv.length(0) for kv in caches] == [40, 0]
    feed(model, caches[0], prompt(100))
    assert model.kv_bytes == model.kv_budget_bytes
    caches[0].close()
    feed(model, caches[1], prompt(1))


def test_an_exhausted_device_is_out_of_memory_and_books_only_what_is_held(
    model: SpanModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow = KVCache.grow
    victim = model.new_cache()

    def failing(self: KVCache, layers: range, rows: int) -> None:
        if self is victim:
            raise OutOfMemory("the device has no room")
        grow(self, layers, rows)

    monkeypatch.setattr(KVCache, "grow", failing)
    fine = model.new_cache()
    with pytest.raises(OutOfMemory, match="device"):
        model.forward([segment(fine, 0, 2, prompt(3)), segment(victim, 0, 2, prompt(3))])
    assert model.kv_bytes == fine.nbytes > 0
    assert fine.length(0) == 0


@pytest.mark.parametrize("layer", range(DEPTH))
def test_a_forward_that_fails_midway_leaves_the_caches_as_they_were(
    model: SpanModel, layer: int
) -> None:
    kept, lost, after = prompt(70), prompt(30, seed=1), prompt(5, seed=2)
    caches = [model.new_cache(), model.new_cache()]
    for kv in caches:
        feed(model, kv, kept)
    clean = model.new_cache()
    feed(model, clean, kept)

    def fail(*_: object) -> None:
        raise RuntimeError("lost power")

    hook = model.network.get_submodule(f"model.layers.{layer}.mlp.up_proj").register_forward_hook(
        fail
    )
    with pytest.raises(RuntimeError, match="lost power"):
        model.forward([segment(kv, 0, DEPTH, lost) for kv in caches])
    hook.remove()
    assert {kv.length(n) for kv in caches for n in range(DEPTH)} == {len(kept)}
    expected = feed(model, clean, after)
    for kv in caches:
        torch.testing.assert_close(feed(model, kv, after), expected)


def test_rows_that_do_not_follow_the_caches_are_refused(model: SpanModel) -> None:
    kv = model.new_cache()
    feed(model, kv, prompt(4), stop=3)
    states = torch.zeros(2, model.shape.hidden)
    other = whole("llama").new_cache()
    closed = model.new_cache()
    closed.close()
    wrong = {
        "rows from 3 on where layer 0 holds 4": Segment(kv, 0, 2, 3, prompt(1), None),
        "rows from 5 on where layer 0 holds 4": Segment(kv, 0, 2, 5, prompt(1), None),
        "rows from 4 on where layer 3 holds 0": Segment(kv, 0, 4, 4, prompt(1), None),
        "not within": Segment(kv, 0, DEPTH + 1, 4, prompt(1), None),
        "as ids or as states": Segment(kv, 0, 2, 4, prompt(2), states),
        "ids enter at layer 0": Segment(kv, 3, 4, 0, prompt(2), None),
        "states above it": Segment(kv, 0, 2, 4, None, states),
        "no rows": Segment(kv, 0, 2, 4, prompt(0), None),
        "width 3": Segment(kv, 3, 4, 0, None, torch.zeros(2, 3)),
        "another model": Segment(other, 0, 2, 0, prompt(1), None),
        "closed": Segment(closed, 0, 2, 0, prompt(1), None),
        "beyond the model's 256": Segment(kv, 0, 2, 4, prompt(253), None),
    }
    for match, given in wrong.items():
        with pytest.raises(ValueError, match=match):
            model.forward([given])
    assert [kv.length(layer) for layer in range(DEPTH)] == [4, 4, 4, 0, 0]


def test_rows_come_out_as_their_own_memory(model: SpanModel) -> None:
    parts = model.forward([segment(model.new_cache(), 0, 2, prompt(n)) for n in (1, 30)])
    assert [part.untyped_storage().nbytes() for part in parts] == [p.nbytes for p in parts]


def test_the_ledger_counts_right_from_many_threads() -> None:
    ledger = Ledger()
    ledger.limit = 10**9

    def work() -> None:
        for _ in range(2000):
            ledger.take(3)
            ledger.give(2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.held == 8000
