"""A real edge model, trees of drafts run through it, and what each row's own line gives."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from services.edge.drafting import Ask, Drafted, Drafting, Ranker
from services.edge.engine import EdgeEngine, Proposal
from services.edge.state import EdgeState
from shared.decoding.sampling import PrefixState, Ranking, SamplingParameters, rank
from shared.model import LayerSpan, SpanModel, load_span
from shared.runtime.work import Failed
from tests.support.tiny_models import DEPTH, VOCABULARY, checkpoint, feed, prompt

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
def trees(draw: st.DrawFn, *, distinct: bool = False) -> Grown:
    count = draw(st.integers(1, 10))
    token = st.integers(0, VOCABULARY - 1)
    tokens = draw(st.lists(token, min_size=count, max_size=count, unique=distinct).map(tuple))
    return Grown(tokens, tuple(draw(st.integers(-1, n - 1)) for n in range(count)))


# Leads: the exit at the split is always, mostly, seldom and never sure.
SURE = (0.0, 0.2, 3.0, math.inf)
CHUNKS = st.lists(st.integers(1, 6), max_size=12)


def fold(line: Sequence[int]) -> PrefixState:
    state = PrefixState.start(PROMPT)
    for token in line[len(PROMPT) :]:
        state = state.advance(token)
    return state


@contextmanager
def session(engine: EdgeEngine) -> Iterator[EdgeState]:
    with engine.model.new_cache() as cache:
        yield EdgeState(cache)


def prompting(state: EdgeState) -> Drafting:
    """The prompt, ranked at its end."""
    count = len(PROMPT)
    asks = [*[None] * (count - 1), Ask(count, fold(PROMPT))]
    return Drafting(state, PROMPT, 0, (), 0, range(-1, count - 1), asks, RANKER)


def drafting(state: EdgeState, tree: Grown, **fields: object) -> Drafting:
    """A whole tree, every node of it ranked."""
    count = len(PROMPT)
    asks = [Ask(len(tree.line(n)), fold(tree.line(n))) for n in range(len(tree.tokens))]
    made = Drafting(state, tree.tokens, count, (), count, tree.parents, asks, RANKER)
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


def as_line(model: SpanModel, line: Sequence[int], layer: int) -> tuple[Tensor, Tensor]:
    """(state at the split, logits of the exit in front of `layer`) of a line's last token, by
    itself.
    """
    with model.new_cache() as cache:
        below = feed(model, cache, torch.tensor(line), stop=SPLIT)
        top = below if layer == SPLIT else feed(model, cache, below, start=SPLIT)
    return below[-1], model.exit_logits(layer, top[-1:])[0]


def require_lines(
    model: SpanModel, tree: Grown, found: Drafted, *, first: int = 0, exits: Sequence[int] = ()
) -> None:
    """`found` is of the nodes from `first` on, ranked at the last exit or at `exits`."""
    count = len(tree.tokens) - first
    assert len(found.states) == len(found.rankings) == count
    assert list(found.exits) == list(exits or [model.span.stop] * count)
    for row, (ranking, layer) in enumerate(zip(found.rankings, found.exits, strict=True)):
        line = tree.line(first + row)
        below, logits = as_line(model, line, layer)
        torch.testing.assert_close(found.states[row], below, rtol=0, atol=EXACT)
        require_ranking(ranking, logits, line)


def require_ranking(ranking: Ranking | None, logits: Tensor, line: Sequence[int]) -> None:
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


def moved(tree: Grown, by: int) -> list[int]:
    """The parents of nodes that stand on the last of `by` others."""
    return [by - 1 if parent < 0 else by + parent for parent in tree.parents]
