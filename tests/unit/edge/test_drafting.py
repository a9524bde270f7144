"""A tree of drafts through a real edge model: what each node's own line would have given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from services.edge.drafting import Ask, Drafted, Drafting, Ranker
from services.edge.engine import EdgeEngine, Proposal, Proposing, Question
from shared.decoding.sampling import PrefixState, SamplingParameters, rank
from shared.errors import ComputeError, OutOfMemory
from shared.model import KVCache, LayerSpan, SpanModel, load_span
from shared.runtime.work import Failed
from tests.support.tiny_models import DEPTH, NAMES, VOCABULARY, checkpoint, feed, prompt

SPLIT, EDGE_DEPTH = 1, 3
EXACT = 1e-10
RANKER = Ranker(SamplingParameters(temperature=0.7, top_p=0.9, repetition_penalty=1.2), 7, 4)
PROMPT = prompt(11).tolist()


@cache
def edge(name: str, depth: int = EDGE_DEPTH) -> SpanModel:
    return load_span(
        checkpoint(name),
        LayerSpan(0, depth, DEPTH),
        dtype=torch.float64,
        embedding=True,
        head=False,
        exits=sorted({SPLIT, depth}),
    )


def engine_of(name: str = "qwen2", depth: int = EDGE_DEPTH) -> EdgeEngine:
    return EdgeEngine(edge(name, depth), SPLIT, max_rows=64)


@dataclass(frozen=True)
class Grown:
    """Tokens after `PROMPT`, each on a parent: an earlier one or the prompt (-1)."""

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    def line(self, node: int) -> list[int]:
        before = self.line(self.parents[node]) if self.parents[node] >= 0 else PROMPT
        return [*before, self.tokens[node]]


@st.composite
def trees(draw: st.DrawFn) -> Grown:
    count = draw(st.integers(1, 10))
    tokens = draw(
        st.lists(st.integers(0, VOCABULARY - 1), min_size=count, max_size=count).map(tuple)
    )
    return Grown(tokens, tuple(draw(st.integers(-1, n - 1)) for n in range(count)))


CHUNKS = st.lists(st.integers(1, 6), max_size=12)


def fold(line: Sequence[int]) -> PrefixState:
    state = PrefixState.start(PROMPT)
    for token in line[len(PROMPT) :]:
        state = state.advance(token)
    return state


def prompting(cache: KVCache) -> Drafting:
    """The prompt, ranked at its end."""
    count = len(PROMPT)
    asks = [*[None] * (count - 1), Ask(count, fold(PROMPT))]
    return Drafting(cache, PROMPT, 0, (), 0, range(-1, count - 1), asks, RANKER)


def drafting(cache: KVCache, tree: Grown, **fields: object) -> Drafting:
    """A whole tree, every node of it ranked."""
    count = len(PROMPT)
    asks = [Ask(len(tree.line(n)), fold(tree.line(n))) for n in range(len(tree.tokens))]
    made = Drafting(cache, tree.tokens, count, (), count, tree.parents, asks, RANKER)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def run(engine: EdgeEngine, *works: Drafting, chunks: Sequence[int] = ()) -> list[Drafted]:
    """Step until all works are complete, by these many rows and then by all that are left."""
    done: dict[int, Drafted] = {}
    sizes: Iterator[int] = iter(chunks)
    while left := [work for work in works if id(work) not in done]:
        rows = next(sizes, 1000)
        found = engine.step([(work, min(rows, work.rows)) for work in left])
        for work, outcome in zip(left, found, strict=True):
            assert not isinstance(outcome, Failed | Proposal), outcome
            if outcome is not None:
                done[id(work)] = outcome
    return [done[id(work)] for work in works]


def as_line(model: SpanModel, line: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(state at the split, logits of the last exit) of a line's last token, by itself."""
    ids = torch.tensor(line)
    with model.new_cache() as cache:
        below = feed(model, cache, ids, stop=SPLIT)[-1]
    with model.new_cache() as cache:
        top = feed(model, cache, ids)[-1:]
    return below, model.exit_logits(model.span.stop, top)[0]


def require_lines(model: SpanModel, tree: Grown, found: Drafted) -> None:
    assert len(found.states) == len(found.rankings) == len(tree.tokens)
    for node, ranking in enumerate(found.rankings):
        line = tree.line(node)
        below, logits = as_line(model, line)
        torch.testing.assert_close(found.states[node], below, rtol=0, atol=EXACT)
        expected = rank(
            logits,
            fold(line),
            RANKER.parameters,
            seed=RANKER.seed,
            index=0,
            position=len(line),
            count=RANKER.count,
        )
        assert ranking is not None
        assert ranking.tokens == expected.tokens
        assert ranking.lead == pytest.approx(expected.lead, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_gives_what_its_lines_give_in_whatever_chunks(name: str) -> None:
    engine = engine_of(name)

    @given(trees(), CHUNKS, CHUNKS)
    def check(tree: Grown, first: list[int], second: list[int]) -> None:
        with engine.model.new_cache() as cache:
            run(engine, prompting(cache), chunks=first)
            [found] = run(engine, drafting(cache, tree), chunks=second)
        require_lines(engine.model, tree, found)

    check()


@given(one=trees(), other=trees(), chunks=CHUNKS)
def test_trees_side_by_side_are_each_alone(one: Grown, other: Grown, chunks: list[int]) -> None:
    engine = engine_of("gemma3")
    with engine.model.new_cache() as first, engine.model.new_cache() as second:
        run(engine, prompting(first), prompting(second))
        works = (drafting(first, one), drafting(second, other))
        for tree, found in zip((one, other), run(engine, *works, chunks=chunks), strict=True):
            require_lines(engine.model, tree, found)


@given(tree=trees(), more=trees(), pick=st.integers(0, 9), chunks=CHUNKS)
def test_what_a_step_keeps_bears_the_next_tree(
    tree: Grown, more: Grown, pick: int, chunks: list[int]
) -> None:
    """A path is kept by the step after it, once, however many steps that one takes."""
    engine = engine_of("mistral")
    node, base = pick % len(tree.tokens), len(PROMPT)
    path = [n for n in range(node + 1) if _leads_to(tree, n, node)]
    parents = [*range(-1, len(path) - 1), *_moved(more, len(path))]
    grown = Grown(tuple(tree.tokens[n] for n in path) + more.tokens, tuple(parents))
    with engine.model.new_cache() as cache:
        run(engine, prompting(cache))
        run(engine, drafting(cache, tree))
        asks = [
            Ask(len(grown.line(n)), fold(grown.line(n)))
            for n in range(len(path), len(grown.tokens))
        ]
        keep = [base + n for n in path]
        work = Drafting(cache, more.tokens, base, keep, base, parents, asks, RANKER)
        [found] = run(engine, work, chunks=chunks)
        assert cache.length(0) == base + len(grown.tokens)
    for row, ranking in enumerate(found.rankings):
        line = grown.line(len(path) + row)
        below, _ = as_line(engine.model, line)
        torch.testing.assert_close(found.states[row], below, rtol=0, atol=EXACT)
        assert ranking is not None


def _leads_to(tree: Grown, ancestor: int, node: int) -> bool:
    return node == ancestor or (node >= 0 and _leads_to(tree, ancestor, tree.parents[node]))


def _moved(tree: Grown, by: int) -> list[int]:
    """The parents of nodes that stand on the last of `by` others."""
    return [by - 1 if parent < 0 else by + parent for parent in tree.parents]


def test_an_edge_that_ends_at_the_split_sends_what_leaves_it() -> None:
    engine, tree = engine_of(depth=SPLIT), Grown((5, 6, 7), (-1, -1, 0))
    with engine.model.new_cache() as cache:
        run(engine, prompting(cache))
        [found] = run(engine, drafting(cache, tree))
    require_lines(engine.model, tree, found)


def test_only_rows_that_are_asked_of_are_ranked() -> None:
    engine = engine_of()
    with engine.model.new_cache() as cache:
        [found] = run(engine, prompting(cache), chunks=[4, 4])
    assert [ranking is not None for ranking in found.rankings] == [*[False] * 10, True]
    assert found.states.shape == (11, engine.model.shape.hidden)


def test_drafts_and_proposals_share_a_step() -> None:
    engine, tree = engine_of(), Grown((5, 6, 7), (-1, -1, 0))
    question = Question(lambda *_: False, fold(PROMPT), SamplingParameters(), 0, 0)
    proposing = Proposing(engine.new_state(), PROMPT, question)
    alone = Proposing(engine.new_state(), PROMPT, question)
    with engine.model.new_cache() as cache:
        run(engine, prompting(cache))
        work = drafting(cache, tree)
        proposal, found = engine.step([(proposing, proposing.rows), (work, work.rows)])
    assert isinstance(found, Drafted)
    require_lines(engine.model, tree, found)
    [expected] = engine.step([(alone, alone.rows)])
    assert isinstance(proposal, Proposal)
    assert isinstance(expected, Proposal)
    assert proposal.choice == expected.choice
    assert work.charge == 3 * EDGE_DEPTH


def test_where_memory_ends_only_those_without_room_go_without() -> None:
    """The step is tried again one by one; what a work keeps of its rows it keeps once."""
    engine = engine_of()
    model, tree, base = engine.model, Grown((5, 6, 7), (-1, -1, 0)), len(PROMPT)
    after = Grown((6, 9), (-1, 0))
    with model.new_cache() as small, model.new_cache() as large:
        run(engine, prompting(small), prompting(large))
        run(engine, drafting(small, tree))
        asks = [Ask(base + 2, fold(after.line(1)))]
        going_on = Drafting(small, [9], base, [base + 1], base, after.parents, asks, RANKER)
        much = drafting(large, Grown(tuple(range(90)), tuple(range(-1, 89))))
        model.kv_budget_bytes = model.kv_bytes
        try:
            found, failed = engine.step([(going_on, 1), (much, 90)])
        finally:
            model.kv_budget_bytes = None
        assert isinstance(found, Drafted)
        below, _ = as_line(model, after.line(1))
        torch.testing.assert_close(found.states[0], below, rtol=0, atol=EXACT)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, OutOfMemory)
        assert (small.length(0), large.length(0)) == (base + 2, base)


def test_numbers_that_are_none_fail_their_own_session(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tree = engine_of(), Grown((5, 6, 7), (-1, -1, 0))
    model = engine.model
    with model.new_cache() as one, model.new_cache() as other:
        run(engine, prompting(one), prompting(other))
        works = [drafting(one, tree), drafting(other, tree)]
        exact = model.exit_logits

        def poisoned(layer: int, hidden: Tensor) -> Tensor:
            logits = exact(layer, hidden).clone()
            logits[1] = float("nan")  # of the first session
            return logits

        monkeypatch.setattr(model, "exit_logits", poisoned)
        bad, good = engine.step([(work, work.rows) for work in works])
        monkeypatch.undo()
    assert isinstance(bad, Failed)
    assert isinstance(bad.error, ComputeError)
    assert isinstance(good, Drafted)
    require_lines(model, tree, good)
