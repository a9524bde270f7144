"""KV of prompts that others begin with: who may borrow what, how much is kept, and that a borrowed
row is the row.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import torch

from services.cloud.contexts import Context
from services.cloud.contexts.prefixes import CHUNK, Prefixes
from services.cloud.engine import CloudEngine, Draw, Pass, Pick
from shared.decoding.sampling import Choice, PrefixState, SamplingParameters
from shared.errors import OutOfMemory
from shared.model import KVCache, Loan, SpanModel
from shared.protocol.messages import Block, Codec
from shared.quantization import encode
from shared.runtime.work import Failed
from tests.support.tiny_models import DEPTH, feed, prompt, whole
from tests.unit.cloud.sessions import CLOUD_OPENING, digest_of

WIDTH = 8
STATES = torch.randn(1000, WIDTH, generator=torch.Generator().manual_seed(0))


@dataclass(eq=False)
class Held:
    """A cache of so many bytes."""

    nbytes: int = 100
    closed: bool = False


@dataclass
class Shelf:
    """Prefixes with a clock of their own and a record of what is given back."""

    budget_bytes: int = 1000
    now: float = 0.0
    released: list[KVCache] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prefixes = Prefixes(self.budget_bytes, 60.0, self._release, lambda: self.now)

    def taught(self, context: Context, *, whole: bool = False) -> KVCache:
        """The cache of a session whose prompt has run."""
        self.prefixes.learn(context, whole=whole)
        assert context.cache is not None
        return context.cache

    def rows(self, context: Context, *, whole: bool = False) -> int:
        """How much of a prompt is here."""
        found = self.prefixes.find(context, whole=whole)
        return found[1] if found else 0

    def _release(self, cache: KVCache) -> None:
        cache.closed = True
        self.released.append(cache)


def session(
    tokens: Sequence[int],
    *,
    client: str = "aa",
    split: int = 0,
    changed: int | None = None,
    scale: float = 1.0,
    codec: Codec = "fp16",
    nbytes: int = 100,
) -> Context:
    """A context whose prompt is `tokens`, with states where it has a split, of which that at
    `changed` is not the usual one.
    """
    opening = replace(
        CLOUD_OPENING,
        client=client,
        codec=codec,
        split=split,
        mode="split" if split else "cloud",
        prompt_tokens=len(tokens),
        max_positions=1000,
    )
    context = Context("s", opening, hidden=WIDTH)
    rows = STATES[: len(tokens)] * scale
    if changed is not None:
        rows[changed] += 1
    given = Block(
        session="s",
        sequence=1,
        revision=0,
        acknowledged=0,
        parent=digest_of((), opening, "s"),
        start=0,
        tokens=tuple(tokens),
        binding=len(tokens),
        states=encode(rows, codec) if split else None,
    )
    context.apply(given)
    context.cache = cast(KVCache, Held(nbytes))
    return context


def found(shelf: Shelf, context: Context) -> KVCache:
    """Whose KV a prompt can begin with."""
    lender = shelf.prefixes.find(context, whole=False)
    assert lender is not None
    return lender[0].cache


def numbers(count: int, first: int = 0) -> list[int]:
    return [(first + n) % 11 for n in range(count)]


@pytest.mark.parametrize("split", [0, 2])
def test_the_longest_beginning_in_whole_chunks_is_found(split: int) -> None:
    shelf = Shelf()
    first = session(numbers(3 * CHUNK), split=split)
    lender = shelf.taught(first)
    for count, chunks in ((CHUNK, 0), (CHUNK + 1, 1), (2 * CHUNK, 1), (900, 2)):
        assert shelf.rows(session(numbers(count), split=split)) == chunks * CHUNK
    assert found(shelf, session(numbers(900), split=split)) is lender
    assert shelf.rows(first) == 0, "nobody borrows from themselves"


def test_only_what_makes_the_same_kv_is_found() -> None:
    shelf = Shelf()
    lenders = [session(numbers(200), split=split) for split in (0, 2)]
    for lender in lenders:
        shelf.taught(lender)
    tokens = numbers(200)
    tokens[CHUNK + 5] += 1
    assert shelf.rows(session(tokens)) == CHUNK
    assert shelf.rows(session([1, *numbers(200)])) == 0
    assert shelf.rows(session(numbers(200), split=2)) == 3 * CHUNK
    assert shelf.rows(session(numbers(200), split=2, changed=CHUNK + 5)) == CHUNK
    assert shelf.rows(session(numbers(200), split=2, changed=0)) == 0
    assert shelf.rows(session(numbers(200), split=1)) == 0
    assert shelf.rows(session(numbers(200), client="ab")) == 0


def test_states_that_differ_in_scale_alone_are_others() -> None:
    shelf = Shelf()
    one, twice = (session(numbers(200), split=2, codec="int8", scale=s) for s in (1.0, 2.0))
    assert one.states.slice(0, 200).payload == twice.states.slice(0, 200).payload
    shelf.taught(one)
    assert shelf.rows(session(numbers(200), split=2, codec="int8")) == 3 * CHUNK
    assert shelf.rows(twice) == 0
    assert shelf.rows(session(numbers(200), split=2)) == 0, "of another codec"


def test_rows_of_every_layer_are_found_by_their_tokens_if_every_layer_has_run() -> None:
    shelf = Shelf()
    half = session(numbers(200), split=2)
    shelf.taught(half)
    assert shelf.rows(session(numbers(200), split=2), whole=True) == 0
    full = session(numbers(200), split=2, changed=3)
    shelf.taught(full, whole=True)
    assert shelf.rows(session(numbers(200), split=2), whole=True) == 3 * CHUNK
    assert shelf.rows(session(numbers(200)), whole=True) == 0, "of another split"
    assert shelf.rows(session(numbers(200), split=2, changed=3)) == 3 * CHUNK


def test_who_is_nobody_neither_lends_nor_borrows() -> None:
    shelf = Shelf()
    lender = session(numbers(200), client="")
    shelf.taught(lender)
    assert shelf.rows(session(numbers(200), client="")) == 0


def test_the_kv_of_a_session_that_is_gone_is_not_found() -> None:
    shelf = Shelf()
    first, second = session(numbers(200)), session(numbers(100))
    shelf.taught(first).closed = True
    assert shelf.rows(session(numbers(200))) == 0
    shelf.taught(second)
    assert shelf.rows(session(numbers(200))) == CHUNK
    second.lender = None
    gc.collect()
    assert shelf.rows(session(numbers(200))) == 0


def kept(shelf: Shelf, context: Context) -> KVCache:
    """The cache of a session that has ended."""
    cache = shelf.taught(context)
    shelf.prefixes.keep(context)
    assert (context.cache, context.lender) == (None, None)
    return cache


def test_ended_sessions_are_kept_within_the_budget_those_of_use_longest() -> None:
    shelf = Shelf(budget_bytes=300)
    caches = [kept(shelf, session(numbers(100, first=n))) for n in range(3)]
    assert (shelf.prefixes.nbytes, shelf.released) == (300, [])
    assert shelf.rows(session(numbers(100))) == CHUNK
    new = kept(shelf, session(numbers(100, first=5)))
    assert (shelf.prefixes.nbytes, shelf.released) == (300, [caches[1]])
    assert shelf.rows(session(numbers(100, first=1))) == 0
    assert [shelf.prefixes.give_up() for _ in range(4)] == [100, 100, 100, 0]
    assert shelf.released == [caches[1], caches[2], caches[0], new]
    assert shelf.prefixes.nbytes == 0


def test_what_nobody_could_use_or_is_too_much_is_not_kept() -> None:
    shelf = Shelf(budget_bytes=300)
    first = session(numbers(100, first=3))
    shelf.taught(first)
    cases = {
        "too short": session(numbers(20)),
        "too large": session(numbers(100), nbytes=301),
        "another has the same rows": session(numbers(100, first=3)),
    }
    for why, context in cases.items():
        cache = kept(shelf, context)
        assert shelf.released[-1] is cache, why
    assert shelf.prefixes.nbytes == 0


def test_what_was_of_no_use_for_long_is_released() -> None:
    shelf = Shelf()
    used = kept(shelf, session(numbers(100, first=1)))
    old = kept(shelf, session(numbers(100)))
    shelf.now = 50
    assert shelf.rows(session(numbers(100, first=1))) == CHUNK
    shelf.now = 61
    shelf.prefixes.sweep()
    assert (shelf.released, shelf.prefixes.nbytes) == ([old], 100)
    shelf.now = 111
    shelf.prefixes.sweep()
    assert (shelf.released, shelf.prefixes.nbytes) == ([old, used], 0)


@pytest.fixture
def model() -> SpanModel:
    return whole("llama", dtype=torch.float64)


def work(model: SpanModel, ids: torch.Tensor, loan: Loan | None) -> Pass:
    pick = Pick(len(ids) - 1, len(ids), PrefixState.start(ids.tolist()))
    draw = Draw(SamplingParameters(), seed=0, index=0)
    return Pass(model.new_cache(), 0, 0, ids, [pick], draw, loan=loan)


def through(engine: CloudEngine, each: Pass, rows: int) -> Choice:
    """Run a pass in steps of so many rows."""
    outcome = None
    while outcome is None:
        (outcome,) = engine.step([(each, min(rows, each.rows))])
    assert not isinstance(outcome, Failed)
    return outcome[0]


@pytest.mark.parametrize("rows", [7, 500])
def test_a_borrowed_row_is_the_row(model: SpanModel, rows: int) -> None:
    engine = CloudEngine(model)
    ids = prompt(150)
    lender = model.new_cache()
    feed(model, lender, torch.cat([ids[:140], prompt(9, seed=3)]))
    calls: list[int] = []
    model.network.get_submodule("model.layers.0.mlp.up_proj").register_forward_pre_hook(
        lambda _, given: calls.append(len(given[0]))
    )
    alone, borrowing = work(model, ids, None), work(model, ids, Loan(lender, 128))
    expected = through(engine, alone, rows)
    calls.clear()
    found = through(engine, borrowing, rows)
    assert sum(calls) == 150 - 128 == 150 - borrowing.borrowed
    assert found.token == expected.token
    assert abs(found.confidence - expected.confidence) < 1e-9
    for layer in range(DEPTH):
        held = [each.cache.buffer(layer)[:, :, :150] for each in (alone, borrowing)]
        torch.testing.assert_close(held[1], held[0], atol=1e-10, rtol=0)
    lender.buffer(0).zero_()
    assert borrowing.cache.buffer(0)[:, :, :128].any(), "a copy, not a view"


@pytest.mark.parametrize("lost", ["closed", "truncated", "no room"])
def test_rows_that_are_no_longer_to_be_had_are_run(model: SpanModel, lost: str) -> None:
    engine = CloudEngine(model)
    ids = prompt(150)
    lender = model.new_cache()
    feed(model, lender, ids)
    each = work(model, ids, Loan(lender, 128))
    expected = through(engine, work(model, ids, None), 500).token
    if lost == "closed":
        lender.close()
    elif lost == "truncated":
        lender.truncate(127)
    else:
        model.kv_budget_bytes = model.kv_bytes
        with pytest.raises(OutOfMemory):
            through(engine, each, 500)
        model.kv_budget_bytes = None
    assert through(engine, each, 500).token == expected
    assert each.borrowed == 0
