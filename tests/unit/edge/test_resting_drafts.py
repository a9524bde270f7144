"""Drafts whose step ends at the split: what was left behind there, and when it comes up."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from services.edge.drafting import MOST_BEHIND, Ask, Drafted, Drafting
from services.edge.engine import EdgeEngine
from services.edge.state import EdgeState
from shared.errors import Abandoned, OutOfMemory
from shared.model import Segment
from shared.runtime.work import Failed
from tests.unit.edge.edge_rows import (
    CHUNKS,
    EDGE_DEPTH,
    EXACT,
    PROMPT,
    RANKER,
    SPLIT,
    SURE,
    Grown,
    as_line,
    drafting,
    engine_of,
    fold,
    moved,
    prompting,
    require_lines,
    require_ranking,
    run,
    session,
    trees,
)


@dataclass
class Growing:
    """A session run step by step: `rows` has per slot the tokens of its line, the first `decided`
    slots are decided.
    """

    engine: EdgeEngine
    state: EdgeState
    rows: list[list[int]] = field(default_factory=list)
    decided: int = 0

    def step(
        self, tree: Grown, path: Sequence[int], decides: int, sure: float, chunks: Sequence[int]
    ) -> Drafted:
        """Keep the slots of `path`, decide on the first few, and run a tree on the last; hold what
        is found against what each row's own line gives.
        """
        base, line = self.decided, self.decided + decides
        rows = [*self.rows[:base], *(self.rows[slot] for slot in path)]
        before = rows[-1] if rows else []
        grown = [[*before, *tree.line(n)[len(PROMPT) :]] for n in range(len(tree.tokens))]
        parents = [*range(-1, len(path) - decides - 1), *moved(tree, len(path) - decides)]
        asks = [Ask(len(each), fold(each)) for each in grown]
        state = self.state
        work = Drafting(state, tree.tokens, base, path, line, parents, asks, RANKER, sure=sure)
        [found] = run(self.engine, work, chunks=chunks)
        self.rows, self.decided = [*rows, *grown], line
        for own, states, ranking, layer in zip(
            grown, found.states, found.rankings, found.exits, strict=True
        ):
            below, logits = as_line(self.engine.model, own, layer)
            torch.testing.assert_close(states, below, rtol=0, atol=EXACT)
            require_ranking(ranking, logits, own)
        return found

    def path(self, pick: int) -> list[int]:
        """The undecided slots on the way to one of them."""
        slots = range(self.decided, len(self.rows))
        if not slots:
            return []
        end = self.rows[slots[pick % len(slots)]]
        return [slot for slot in slots if self.rows[slot] == end[: len(self.rows[slot])]]


WHOLE_PROMPT = Grown(tuple(PROMPT), tuple(range(-1, len(PROMPT) - 1)))


@settings(max_examples=40)
@given(
    growths=st.lists(
        st.tuples(
            trees(distinct=True), st.integers(0, 9), st.integers(0, 3), st.sampled_from(SURE)
        ),
        max_size=3,
    ),
    first=st.sampled_from(SURE),
    chunks=CHUNKS,
)
def test_rows_left_at_the_split_come_up_with_the_first_that_are_unsure(
    growths: list[tuple[Grown, int, int, float]], first: float, chunks: list[int]
) -> None:
    """Whatever was left behind and dropped on the way, each row is its line's, at the exit that
    ranked it.
    """
    engine = engine_of("qwen3")
    with session(engine) as state:
        growing = Growing(engine, state)
        growing.step(WHOLE_PROMPT, [], 0, first, chunks)
        for tree, pick, decides, sure in [*growths, (Grown((5, 6), (-1, -1)), 0, 0, math.inf)]:
            path = growing.path(pick)
            was_behind = state.left_behind
            found = growing.step(tree, path, min(decides, len(path)), sure, chunks)
            assert state.cache.length(0) == len(growing.rows)
            assert state.cache.length(SPLIT) == len(growing.rows) - state.left_behind
            if sure == math.inf:
                assert state.left_behind == 0
                assert set(found.exits) == {EDGE_DEPTH}
                assert found.whole or was_behind
            if sure == 0:
                assert set(found.exits) == {SPLIT}
                assert not found.whole


def test_the_likeliest_row_says_whether_the_exit_at_the_split_is_enough() -> None:
    engine, tree = engine_of(), Grown((5, 6, 7, 8), (-1, -1, -1, -1))
    with session(engine) as state:
        run(engine, prompting(state))
        [found] = run(engine, drafting(state, tree, sure=0.0))
    lead, *others = (ranking.lead for ranking in found.rankings if ranking is not None)
    assert min(abs(lead - other) for other in others) > 0.01
    for sure, layer in [(lead - 0.001, SPLIT), (lead + 0.001, EDGE_DEPTH)]:
        with session(engine) as state:
            run(engine, prompting(state))
            [found] = run(engine, drafting(state, tree, sure=sure))
        assert set(found.exits) == {layer}


def test_only_so_many_rows_are_left_behind() -> None:
    engine = engine_of()
    tree = Grown(tuple(range(MOST_BEHIND - len(PROMPT))), (-1,) * (MOST_BEHIND - len(PROMPT)))
    with session(engine) as state:
        prompt = prompting(state)
        prompt.sure = 0.0
        run(engine, prompt)
        assert state.left_behind == len(PROMPT)
        run(engine, drafting(state, tree, sure=0.0))
        assert state.left_behind == MOST_BEHIND
        count = len(PROMPT) + len(tree.tokens)
        keep = range(len(PROMPT), count)
        more = Grown((*tree.tokens, 3), (*tree.parents, -1))
        ask = Ask(len(more.line(len(more.tokens) - 1)), fold(more.line(len(more.tokens) - 1)))
        base = len(PROMPT)
        work = Drafting(state, [3], base, keep, base, more.parents, [ask], RANKER, sure=0.0)
        [found] = run(engine, work)
        assert state.left_behind == 0
    require_lines(engine.model, more, found, first=len(tree.tokens))


def test_what_ends_on_the_way_up_leaves_a_session_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of a step that was abandoned, or had no room, above the split are dropped by the next;
    a neighbour that did not go up has what it asked for.
    """
    engine, tree = engine_of(), Grown((5, 6, 7), (-1, -1, 0))
    exact = engine.model.forward

    def ended(error: Exception) -> Callable[[Sequence[Segment]], list[Tensor]]:
        def forward(segments: Sequence[Segment]) -> list[Tensor]:
            if segments[0].start == SPLIT:
                raise error
            return exact(segments)

        return forward

    for error in (Abandoned(), OutOfMemory("KV")):
        with session(engine) as one, session(engine) as other:
            run(engine, prompting(one), prompting(other))
            works = [drafting(one, tree), drafting(other, tree, sure=0.0)]
            monkeypatch.setattr(engine.model, "forward", ended(error))
            failed, found = engine.step([(work, work.rows) for work in works])
            monkeypatch.undo()
            assert isinstance(failed, Failed)
            assert failed.error is error
            assert isinstance(found, Drafted)
            require_lines(engine.model, tree, found, exits=[SPLIT] * 3)
            [again] = run(engine, drafting(one, tree))
            require_lines(engine.model, tree, again)
