"""A tree of drafts through a real edge model: what each node's own line would have given."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from services.edge.drafting import Ask, Drafted, Drafting
from services.edge.engine import Proposal, Proposing, Question
from shared.decoding.sampling import SamplingParameters
from shared.errors import ComputeError, OutOfMemory
from shared.runtime.work import Failed
from tests.support.tiny_models import NAMES
from tests.unit.edge.edge_rows import (
    CHUNKS,
    EDGE_DEPTH,
    EXACT,
    PROMPT,
    RANKER,
    SPLIT,
    Grown,
    as_line,
    drafting,
    engine_of,
    fold,
    moved,
    prompting,
    require_lines,
    run,
    session,
    trees,
)


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_gives_what_its_lines_give_in_whatever_chunks(name: str) -> None:
    engine = engine_of(name)

    @given(trees(), CHUNKS, CHUNKS)
    def check(tree: Grown, first: list[int], second: list[int]) -> None:
        with session(engine) as state:
            run(engine, prompting(state), chunks=first)
            [found] = run(engine, drafting(state, tree), chunks=second)
        require_lines(engine.model, tree, found)

    check()


@given(one=trees(), other=trees(), chunks=CHUNKS)
def test_trees_side_by_side_are_each_alone(one: Grown, other: Grown, chunks: list[int]) -> None:
    engine = engine_of("gemma3")
    with session(engine) as first, session(engine) as second:
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
    parents = [*range(-1, len(path) - 1), *moved(more, len(path))]
    grown = Grown(tuple(tree.tokens[n] for n in path) + more.tokens, tuple(parents))
    with session(engine) as state:
        run(engine, prompting(state))
        run(engine, drafting(state, tree))
        asks = [
            Ask(len(grown.line(n)), fold(grown.line(n)))
            for n in range(len(path), len(grown.tokens))
        ]
        keep = [base + n for n in path]
        work = Drafting(state, more.tokens, base, keep, base, parents, asks, RANKER)
        [found] = run(engine, work, chunks=chunks)
        assert state.cache.length(0) == base + len(grown.tokens)
    require_lines(engine.model, grown, found, first=len(path))


def _leads_to(tree: Grown, ancestor: int, node: int) -> bool:
    return node == ancestor or (node >= 0 and _leads_to(tree, ancestor, tree.parents[node]))


def test_an_edge_that_ends_at_the_split_sends_what_leaves_it() -> None:
    engine, tree = engine_of(depth=SPLIT), Grown((5, 6, 7), (-1, -1, 0))
    with session(engine) as state:
        run(engine, prompting(state))
        [found] = run(engine, drafting(state, tree))
    require_lines(engine.model, tree, found)


def test_only_rows_that_are_asked_of_are_ranked() -> None:
    engine = engine_of()
    with session(engine) as state:
        [found] = run(engine, prompting(state), chunks=[4, 4])
    assert [ranking is not None for ranking in found.rankings] == [*[False] * 10, True]
    assert found.states.shape == (11, engine.model.shape.hidden)


def test_drafts_and_proposals_share_a_step() -> None:
    engine, tree = engine_of(), Grown((5, 6, 7), (-1, -1, 0))
    question = Question(lambda *_: False, fold(PROMPT), SamplingParameters(), 0, 0)
    proposing = Proposing(engine.new_state(), PROMPT, question)
    alone = Proposing(engine.new_state(), PROMPT, question)
    with session(engine) as state:
        run(engine, prompting(state))
        work = drafting(state, tree)
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
    with session(engine) as small, session(engine) as large:
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
        below, _ = as_line(model, after.line(1), EDGE_DEPTH)
        torch.testing.assert_close(found.states[0], below, rtol=0, atol=EXACT)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, OutOfMemory)
        assert (small.cache.length(0), large.cache.length(0)) == (base + 2, base)


def test_numbers_that_are_none_fail_their_own_session(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tree = engine_of(), Grown((5, 6, 7), (-1, -1, 0))
    model = engine.model
    with session(engine) as one, session(engine) as other:
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
