"""One ragged forward over many sessions computes for each what it would compute alone."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from shared.model import KVCache, Segment, SpanModel
from tests.support.tiny_models import (
    DEPTH,
    NAMES,
    checkpoint,
    feed,
    prompt,
    segment,
    whole,
)

EXACT = 1e-10
SPLIT, EDGE_DEPTH = 2, 4


def exact(name: str) -> SpanModel:
    """The whole model in float64, where no rounding hides an error."""
    return whole(name, dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_batched_is_alone_with_unequal_lengths_starts_and_stops(name: str) -> None:
    model = exact(name)
    generator = torch.Generator().manual_seed(1)
    plans = [
        # (rows before, at which all layers have run; rows now; layer they enter; layer they leave)
        (0, 13, 0, DEPTH),
        (11, 1, 0, DEPTH),
        (30, 1, 0, SPLIT),
        (9, 5, SPLIT, DEPTH),
        (17, 1, 3, EDGE_DEPTH),
        (3, 20, 0, 1),
    ]
    alone, together, segments = [], [], []
    for seed, (before, now, start, stop) in enumerate(plans):
        ids = prompt(before, seed=seed)
        rows = prompt(now, seed=100 + seed)
        if start:
            rows = torch.randn(now, model.shape.hidden, generator=generator, dtype=torch.float64)
        caches = [model.new_cache(), model.new_cache()]
        for kv in caches:
            if before:
                feed(model, kv, ids)
        alone += model.forward([segment(caches[0], start, stop, rows)])
        segments.append(segment(caches[1], start, stop, rows))
        together.append(caches)
    for found, expected in zip(model.forward(segments), alone, strict=True):
        close(found, expected)
    for one, other in together:
        for layer in range(DEPTH):
            rows_held = one.length(layer)
            assert rows_held == other.length(layer)
            close(other.buffer(layer)[:, :, :rows_held], one.buffer(layer)[:, :, :rows_held])


@pytest.mark.parametrize("name", NAMES)
def test_many_sessions_decoding_together_are_each_alone(name: str) -> None:
    model = exact(name)
    lengths = [1, 7, 8, 9, 31]
    ids = [prompt(length + 6, seed=length) for length in lengths]
    caches = [model.new_cache() for _ in ids]
    steps: list[list[Tensor]] = [[] for _ in ids]
    for kv, tokens, length in zip(caches, ids, lengths, strict=True):
        feed(model, kv, tokens[:length])
    for step in range(6):
        outputs = model.forward(
            [
                segment(kv, 0, DEPTH, tokens[length + step : length + step + 1])
                for kv, tokens, length in zip(caches, ids, lengths, strict=True)
            ]
        )
        for kept, output in zip(steps, outputs, strict=True):
            kept.append(output)
    for kept, tokens, length in zip(steps, ids, lengths, strict=True):
        close(torch.cat(kept), feed(model, model.new_cache(), tokens)[length:])


@pytest.mark.parametrize("name", NAMES)
def test_cached_is_uncached_for_any_chunk_sizes(name: str) -> None:
    model = exact(name)
    ids = prompt(40)
    expected = feed(model, model.new_cache(), ids)

    @given(st.lists(st.integers(1, 17), max_size=12))
    def check(chunks: list[int]) -> None:
        with model.new_cache() as kv:
            close(feed(model, kv, ids, chunks=chunks), expected)

    check()


@pytest.mark.parametrize("name", NAMES)
def test_catching_up_on_holes_is_running_step_by_step(name: str) -> None:
    model = exact(name)
    ids = prompt(21)
    stepped, held = model.new_cache(), model.new_cache()
    expected = [feed(model, stepped, ids[n : n + 1], stop=EDGE_DEPTH) for n in range(len(ids))]
    behind = [feed(model, held, ids[n : n + 1], stop=SPLIT) for n in range(len(ids))]
    assert (held.length(SPLIT - 1), held.length(SPLIT)) == (len(ids), 0)
    caught_up = feed(model, held, torch.cat(behind), start=SPLIT, stop=EDGE_DEPTH)
    close(caught_up, torch.cat(expected))
    following = prompt(1, seed=9)
    close(
        feed(model, held, following, stop=EDGE_DEPTH),
        feed(model, stepped, following, stop=EDGE_DEPTH),
    )


@pytest.mark.parametrize("name", NAMES)
def test_truncating_is_never_having_run_the_rows(name: str) -> None:
    model = exact(name)
    kept, dropped, after = prompt(14), prompt(70, seed=1), prompt(9, seed=2)
    with model.new_cache() as kv, model.new_cache() as clean:
        feed(model, kv, kept)
        feed(model, kv, dropped)
        kv.truncate(len(kept))
        feed(model, clean, kept)
        close(feed(model, kv, after), feed(model, clean, after))


def test_each_linear_layer_runs_once_however_many_sessions_there_are() -> None:
    model = whole("qwen3")
    calls: Counter[str] = Counter()

    def count(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    linears = {n: m for n, m in model.network.named_modules() if isinstance(m, nn.Linear)}
    for name, module in linears.items():
        module.register_forward_hook(count(name))
    segments = [segment(model.new_cache(), 0, DEPTH, prompt(n, seed=n)) for n in (1, 1, 5, 1, 9)]
    model.forward(segments)
    inner = {name for name in linears if name.startswith("model.layers.")}
    assert len(inner) == 7 * DEPTH
    assert calls == dict.fromkeys(inner, 1)


def test_a_segment_that_enters_late_and_one_that_leaves_early_share_each_layer_once() -> None:
    model = whole("llama")
    rows: dict[int, list[int]] = {n: [] for n in range(DEPTH)}
    for n in range(DEPTH):
        linear = model.network.get_submodule(f"model.layers.{n}.mlp.up_proj")
        linear.register_forward_pre_hook(lambda _, inputs, n=n: rows[n].append(len(inputs[0])))
    model.forward(
        [
            segment(model.new_cache(), 0, 3, prompt(4)),
            segment(model.new_cache(), 2, 5, torch.zeros(6, model.shape.hidden)),
        ]
    )
    assert rows == {0: [4], 1: [4], 2: [10], 3: [6], 4: [6]}


def test_nothing_runs_at_a_layer_no_segment_asks_for() -> None:
    model = whole("llama")
    kv, other = model.new_cache(), model.new_cache()
    model.forward(
        [
            segment(kv, 0, 1, prompt(3)),
            segment(other, 3, 4, torch.zeros(2, model.shape.hidden)),
        ]
    )
    assert [kv.length(n) for n in range(DEPTH)] == [3, 0, 0, 0, 0]
    assert [other.length(n) for n in range(DEPTH)] == [0, 0, 0, 2, 0]


def test_exits_read_the_state_that_enters_their_layer() -> None:
    model = whole("gemma2", exits=(SPLIT, EDGE_DEPTH))
    states = feed(model, model.new_cache(), prompt(12), stop=SPLIT)
    # Without a trained exit its norm is the final norm: the logit lens.
    torch.testing.assert_close(model.exit_logits(SPLIT, states), model.logits(states))
    assert float(model.exit_logits(SPLIT, states).abs().max()) < 3.0, "the soft cap of the head"


def test_one_session_may_not_be_in_a_forward_twice() -> None:
    model = whole("llama")
    kv: KVCache = model.new_cache()
    states = torch.zeros(1, model.shape.hidden)
    twice = [
        segment(kv, 0, SPLIT, prompt(1)),
        Segment(kv, SPLIT, DEPTH, 0, None, states),
    ]
    with pytest.raises(ValueError, match="share a cache"):
        model.forward(twice)
    assert kv.nbytes == 0


def test_the_checkpoints_differ_where_families_differ() -> None:
    models = {name: whole(name) for name in NAMES}
    shapes = {name: model.shape for name, model in models.items()}
    assert any(s.kv_heads < s.heads for s in shapes.values())
    assert any(s.head_dim * s.heads != s.hidden for s in shapes.values())
    assert {models[name].network.tied for name in NAMES} == {True, False}
    assert all(checkpoint(name).exists() for name in NAMES)
