"""Which rows of a step are attended in one call, and that it changes nothing."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from shared.model.attention import attend
from shared.model.cache import KVCache, Ledger, reserve
from shared.model.masks import Sight, Tree
from shared.model.pool import Layout, Pool
from shared.model.ragged import side_by_side
from shared.model.rows import Rows, Run
from tests.support.tiny_models import DEPTH, prompt, segment, whole

HEADS, KV_HEADS, WIDTH = 4, 2, 16
LAYERS = range(3, 5)


def caches(held: Sequence[int], dtype: torch.dtype = torch.float32) -> list[KVCache]:
    """Caches side by side of so many rows each, with room for 100 more, filled with noise."""
    pool = Pool(Layout(len(LAYERS), KV_HEADS, WIDTH, 2000, dtype, torch.device("cpu")))
    ledger = Ledger()
    made = [KVCache(LAYERS, pool, ledger) for _ in held]
    generator = torch.Generator().manual_seed(sum(held))
    for kv, rows in zip(made, held, strict=True):
        reserve(ledger, [(kv, LAYERS, rows + 100)])
        for layer in LAYERS:
            noise = torch.randn(2, KV_HEADS, rows, WIDTH, generator=generator)
            kv.buffer(layer)[:, :, :rows] = noise
        kv.extend(LAYERS, rows)
    return made


def rows_of(made: Sequence[KVCache], counts: Sequence[int] | None = None) -> Rows:
    """So many new rows of each (one)."""
    runs, first = [], 0
    for kv, count in zip(made, counts or [1] * len(made), strict=True):
        position = kv.length(LAYERS.start)
        runs.append(Run(kv, first, first + count, Sight(position, position + count, None)))
        first += count
    return Rows(runs, LAYERS)


def cuts(rows: Rows, window: int | None = None) -> list[tuple[int, int, int]]:
    """First and last row of every part, and the keys read."""
    return [
        (part.first, part.last, part.keys[0].shape[2])
        for part in rows.parts(window, torch.zeros(1))
    ]


def test_sessions_about_as_long_and_side_by_side_are_read_together() -> None:
    made = caches([10, 63, 64, 100, 126, 127, 128, 300, 511, 513])
    assert cuts(rows_of(made)) == [
        (0, 2, 64),
        (2, 6, 128),
        (6, 7, 256),
        (7, 9, 512),
        (9, 10, 768),
    ]
    assert cuts(rows_of([made[n] for n in (0, 2, 3, 5)])) == [(0, 1, 64), (1, 3, 128), (3, 4, 128)]
    assert cuts(rows_of([made[1], made[0]])) == [(0, 1, 64), (1, 2, 64)]


def test_prompts_trees_and_windows_that_have_moved_on_are_read_alone() -> None:
    made = caches([10, 20, 30, 40])
    assert cuts(rows_of(made, [1, 5, 1, 1])) == [(0, 1, 64), (1, 6, 25), (6, 8, 64)]
    assert cuts(rows_of(made), window=31) == [(0, 3, 64), (3, 4, 31)]
    rows = rows_of(made)
    tree = Tree(20, (20,), torch.ones(1, 1, dtype=torch.bool))
    rows.runs[1].sight.tree = tree
    assert cuts(rows) == [(0, 1, 64), (1, 2, 21), (2, 4, 64)]


def step(rows: Rows, window: int | None, softcap: float | None, dtype: torch.dtype) -> Tensor:
    """What the last layer's rows see, of queries, keys and values that are the rows' own."""
    made = []
    for run in rows.runs:
        generator = torch.Generator().manual_seed(run.sight.position)
        count = run.last - run.first
        made.append(torch.randn(HEADS + 2 * KV_HEADS, count, WIDTH, generator=generator))
    given = torch.cat(made, dim=1).to(dtype)
    query = given[:HEADS].unsqueeze(0)
    fresh = given[HEADS:].view(2, KV_HEADS, -1, WIDTH)
    for layer in LAYERS:
        out = attend(rows, layer, query, fresh, scaling=0.25, window=window, softcap=softcap)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("window", [None, 40, 64])
def test_read_together_is_read_alone_to_the_bit(
    window: int | None, softcap: float | None, dtype: torch.dtype
) -> None:
    held = [3, 10, 30, 31, 62, 63, 100, 7, 8, 500]
    counts = [1, 1, 1, 1, 1, 1, 1, 6, 1, 1]
    together = rows_of(caches(held, dtype), counts)
    found = step(together, window, softcap, dtype)
    alone_of = caches(held, dtype)
    expected = [
        step(rows_of([kv], [count]), window, softcap, dtype)
        for kv, count in zip(alone_of, counts, strict=True)
    ]
    if softcap is None:
        assert torch.equal(found, torch.cat(expected))
    else:  # a batched product of many is summed otherwise than one of few
        tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(found, torch.cat(expected), atol=tolerance, rtol=tolerance)
    for run, kv in zip(together.runs, alone_of, strict=True):
        for layer in LAYERS:
            end = run.sight.end
            assert torch.equal(run.cache.buffer(layer)[:, :, :end], kv.buffer(layer)[:, :, :end])
            assert not run.cache.buffer(layer)[:, :, end:].any()


@pytest.mark.parametrize("window", [None, 40])
def test_what_is_read_is_what_is_there(window: int | None) -> None:
    """Against softmax by hand, as together and alone might both read too much."""
    rows = rows_of(caches([3, 30, 63, 200, 39, 40]))
    found = step(rows, window, None, torch.float32)
    for run in rows.runs:
        begin = 0 if window is None else max(0, run.sight.end - window)
        keys, values = run.cache.buffer(LAYERS[-1])[:, :, begin : run.sight.end]
        generator = torch.Generator().manual_seed(run.sight.position)
        query = torch.randn(HEADS + 2 * KV_HEADS, 1, WIDTH, generator=generator)[:HEADS, 0]
        for head in range(HEADS):
            mine = head // (HEADS // KV_HEADS)
            weights = torch.softmax(keys[mine] @ query[head] * 0.25, dim=0)
            torch.testing.assert_close(found[run.first, head], weights @ values[mine])


def test_a_forward_lays_single_rows_in_the_order_of_their_caches() -> None:
    model = whole("llama")
    made = [model.new_cache() for _ in range(5)]
    for kv in made:
        reserve(kv.ledger, [(kv, range(DEPTH), 1)])
    order = [3, 0, 4, 2, 1]
    segments = [segment(made[n], 0, DEPTH, prompt(7 if n == 2 else 1)) for n in order]
    assert [order[n] for n in side_by_side(segments)] == [0, 1, 3, 4, 2]
