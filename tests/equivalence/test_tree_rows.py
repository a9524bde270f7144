"""Rows that are nodes of a tree compute what each node's path computes as a line."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shared.model import KVCache, Segment, SpanModel, Tap, Tree
from tests.support.tiny_models import DEPTH, NAMES, WINDOW, feed, prompt, segment, whole

EXACT = 1e-10
SPLIT = 2
LONGEST = 3 * WINDOW  # of a prefix
MOST = 2 * WINDOW  # nodes of a tree


@dataclass(frozen=True)
class Drafts:
    """Tokens after `prefix`, each following a parent: a lower number, or the prefix (-1)."""

    prefix: Tensor
    tokens: Tensor
    parents: tuple[int, ...]

    @property
    def base(self) -> int:
        return len(self.prefix)

    def path(self, node: int) -> list[int]:
        """The nodes from the prefix to this one."""
        parent = self.parents[node]
        return [node] if parent < 0 else [*self.path(parent), node]

    def line(self, node: int) -> Tensor:
        """The tokens up to this one."""
        return torch.cat((self.prefix, self.tokens[self.path(node)]))

    @property
    def leaves(self) -> list[int]:
        return [node for node in range(len(self.tokens)) if node not in self.parents]

    def tree(self, first: int, last: int) -> Tree:
        """What nodes [first, last) see when they run."""
        visible = torch.zeros(last - first, last, dtype=torch.bool)
        for node in range(first, last):
            visible[node - first, self.path(node)] = True
        depths = tuple(self.base + len(self.path(node)) - 1 for node in range(last))
        return Tree(self.base, depths, visible)

    def segment(self, kv: KVCache, start: int, stop: int, rows: Tensor) -> Segment:
        """The next nodes, entering as ids or states."""
        first = kv.length(start) - self.base
        return replace(segment(kv, start, stop, rows), tree=self.tree(first, first + rows.shape[0]))


def grown(seed: int, prefix: int, nodes: int) -> Drafts:
    """A random tree: of lines that go on for long, with side branches."""
    chance = random.Random(seed)
    on = chance.choice([0.3, 0.6, 0.9])
    parents = [n - 1 if chance.random() < on else chance.randrange(-1, n) for n in range(nodes)]
    return Drafts(prompt(prefix, seed=seed), prompt(nodes, seed=seed + 1), tuple(parents))


TREES = st.builds(grown, st.integers(0, 10**6), st.integers(0, LONGEST), st.integers(1, MOST))
CHUNKS = st.lists(st.integers(1, MOST), max_size=MOST)


def exact(name: str) -> SpanModel:
    """The whole model in float64, where no rounding hides an error."""
    return whole(name, dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)


def lead(
    model: SpanModel, kv: KVCache, inputs: Tensor, start: int = 0, stop: int = DEPTH
) -> Tensor:
    """Run what comes before a tree, which may be nothing."""
    return feed(model, kv, inputs, start=start, stop=stop) if len(inputs) else inputs


def as_lines(model: SpanModel, drafts: Drafts) -> Tensor:
    """Logits [nodes, V], each from its own line."""
    logits: dict[int, Tensor] = {}
    for leaf in drafts.leaves:
        with model.new_cache() as kv:
            states = feed(model, kv, drafts.line(leaf))
        path = drafts.path(leaf)
        logits |= dict(zip(path, model.logits(states[-len(path) :]), strict=True))
    return torch.stack([logits[node] for node in range(len(drafts.tokens))])


def as_tree(
    model: SpanModel,
    kv: KVCache,
    drafts: Drafts,
    inputs: Tensor,
    start: int = 0,
    stop: int = DEPTH,
    chunks: Sequence[int] = (),
) -> Tensor:
    """As `feed` for nodes: in chunks of these sizes and what is left at once; states [nodes, H]."""
    outputs: list[Tensor] = []
    for size in [*chunks, len(inputs)]:
        rows = inputs[sum(map(len, outputs)) :][:size]
        if len(rows):
            outputs += model.forward([drafts.segment(kv, start, stop, rows)])
    return torch.cat(outputs)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_are_their_lines_for_any_tree_prefix_and_chunks(name: str) -> None:
    model = exact(name)

    @given(TREES, CHUNKS)
    def check(drafts: Drafts, chunks: list[int]) -> None:
        expected = as_lines(model, drafts)
        for sizes in ([], chunks):
            with model.new_cache() as kv:
                lead(model, kv, drafts.prefix)
                states = as_tree(model, kv, drafts, drafts.tokens, chunks=sizes)
            close(model.logits(states), expected)

    check()


@pytest.mark.parametrize("name", NAMES)
def test_nodes_that_enter_as_states_are_their_lines(name: str) -> None:
    model = exact(name)

    @given(TREES, CHUNKS, CHUNKS, st.booleans())
    def check(drafts: Drafts, below: list[int], above: list[int], behind: bool) -> None:
        with model.new_cache() as kv:
            prefix = lead(model, kv, drafts.prefix, 0, SPLIT)
            if not behind:
                lead(model, kv, prefix, SPLIT, DEPTH)
            states = as_tree(model, kv, drafts, drafts.tokens, stop=SPLIT, chunks=below)
            if behind:
                lead(model, kv, prefix, SPLIT, DEPTH)
            states = as_tree(model, kv, drafts, states, start=SPLIT, chunks=above)
        close(model.logits(states), as_lines(model, drafts))

    check()


@pytest.mark.parametrize("name", NAMES)
def test_trees_beside_lines_are_each_alone(name: str) -> None:
    model = exact(name)

    @given(TREES, TREES, st.integers(1, LONGEST), st.integers(1, LONGEST))
    def check(one: Drafts, other: Drafts, held: int, fresh: int) -> None:
        ids = prompt(held + 1, seed=held)
        caches = [model.new_cache() for _ in range(4)]
        for kv, drafts in zip(caches, (one, other), strict=False):
            lead(model, kv, drafts.prefix)
        feed(model, caches[2], ids[:-1])
        early, first, second, third = model.forward(
            [
                segment(caches[3], 0, SPLIT, prompt(fresh)),
                one.segment(caches[0], 0, DEPTH, one.tokens),
                segment(caches[2], 0, DEPTH, ids[-1:]),
                other.segment(caches[1], 0, DEPTH, other.tokens),
            ]
        )
        close(model.logits(first), as_lines(model, one))
        close(model.logits(third), as_lines(model, other))
        close(second, feed(model, model.new_cache(), ids)[-1:])
        close(early, feed(model, model.new_cache(), prompt(fresh), stop=SPLIT))

    check()


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_deeper_than_the_window_far_after_its_length(name: str) -> None:
    """Random trees seldom get here: nodes whose window begins inside the tree."""
    model = exact(name)
    stem = tuple(range(-1, MOST - 1))
    forks = (MOST - 1, 3, MOST + 1, MOST - 1)
    drafts = Drafts(prompt(LONGEST), prompt(MOST + 4, seed=1), stem + forks)
    expected = as_lines(model, drafts)
    for chunks in ([], [MOST, 1, 1, 1], [1] * (MOST + 4)):
        with model.new_cache() as kv:
            feed(model, kv, drafts.prefix)
            states = as_tree(model, kv, drafts, drafts.tokens, chunks=chunks)
        close(model.logits(states), expected)


@pytest.mark.parametrize("base", [0, LONGEST - WINDOW - 1, LONGEST])
@pytest.mark.parametrize("name", NAMES)
def test_a_tree_that_is_a_line_is_the_line_wherever_it_begins(name: str, base: int) -> None:
    model = exact(name)
    tokens = prompt(MOST, seed=1)
    end = LONGEST + MOST
    visible = torch.ones(MOST, end - base, dtype=torch.bool).tril(LONGEST - base)
    with model.new_cache() as kv, model.new_cache() as line:
        for each in (kv, line):
            feed(model, each, prompt(LONGEST))
        tree = Tree(base, tuple(range(base, end)), visible)
        (found,) = model.forward([replace(segment(kv, 0, DEPTH, tokens), tree=tree)])
        close(found, feed(model, line, tokens))


@pytest.mark.parametrize("name", NAMES)
def test_going_on_from_a_kept_path_is_having_run_it_as_a_line(name: str) -> None:
    model = exact(name)

    @given(TREES, CHUNKS, st.integers(0, MOST), st.integers(1, WINDOW + 2), st.booleans())
    def check(drafts: Drafts, chunks: list[int], pick: int, more: int, partly: bool) -> None:
        node = pick % len(drafts.tokens)
        after = prompt(more, seed=7)
        with model.new_cache() as kv, model.new_cache() as line:
            lead(model, kv, drafts.prefix)
            stop = SPLIT if partly else DEPTH
            below = as_tree(model, kv, drafts, drafts.tokens, stop=stop, chunks=chunks)
            kv.keep(drafts.base, [drafts.base + each for each in drafts.path(node)])
            if partly:
                feed(model, kv, below[drafts.path(node)], start=SPLIT)
            feed(model, line, drafts.line(node))
            close(feed(model, kv, after), feed(model, line, after))
            for layer in range(DEPTH):
                held = line.length(layer)
                assert kv.length(layer) == held
                close(kv.buffer(layer)[:, :, :held], line.buffer(layer)[:, :, :held])

    check()


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_path_bears_another_tree(name: str) -> None:
    model = exact(name)
    drafts = grown(3, WINDOW + 3, MOST)
    path = drafts.path(drafts.leaves[-1])
    onward = replace(grown(4, 0, MOST), prefix=drafts.line(path[-1]))
    kv = model.new_cache()
    feed(model, kv, drafts.prefix)
    as_tree(model, kv, drafts, drafts.tokens)
    kv.keep(drafts.base, [drafts.base + node for node in path])
    states = as_tree(model, kv, onward, onward.tokens)
    close(model.logits(states), as_lines(model, onward))


def tapped(given: Segment, layer: int, takes: list[Tensor], *replacing: Tensor) -> Segment:
    """The segment with its states at `layer` kept in `takes`, and replaced where there is one."""

    def take(states: Tensor) -> Tensor:
        takes.append(states)
        return replacing[0] if replacing else states

    return replace(given, tap=Tap(layer, take))


@pytest.mark.parametrize("layer", range(1, DEPTH))
@pytest.mark.parametrize("name", NAMES)
def test_a_tap_gets_the_states_the_layers_below_it_give(name: str, layer: int) -> None:
    model = exact(name)
    ids, drafts = prompt(12), grown(5, 0, MOST)
    caches = [model.new_cache() for _ in range(4)]
    lines: list[Tensor] = []
    nodes: list[Tensor] = []
    found = model.forward(
        [
            segment(caches[0], 0, DEPTH, prompt(5, seed=2)),
            tapped(segment(caches[1], 0, DEPTH, ids), layer, lines),
            tapped(drafts.segment(caches[2], 0, DEPTH, drafts.tokens), layer, nodes),
        ]
    )
    (taken,) = lines
    close(taken, feed(model, model.new_cache(), ids, stop=layer))
    close(nodes[0], as_tree(model, model.new_cache(), drafts, drafts.tokens, stop=layer))
    close(found[0], feed(model, model.new_cache(), prompt(5, seed=2)))
    close(found[1], feed(model, model.new_cache(), ids))
    close(model.logits(found[2]), as_lines(model, drafts))
    assert taken.untyped_storage().nbytes() == taken.nbytes, "others' states are kept with it"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_tap_returns_goes_on_upward(name: str) -> None:
    model = exact(name)
    before, ids = prompt(9), prompt(4, seed=1)
    with model.new_cache() as kv, model.new_cache() as split:
        feed(model, kv, before)
        feed(model, split, before)
        below = feed(model, split, ids, stop=SPLIT)
        other = below + 0.1 * torch.randn(below.shape, dtype=torch.float64)
        expected = feed(model, split, other, start=SPLIT)
        neighbour = tapped(segment(model.new_cache(), 0, DEPTH, before), SPLIT + 1, [])
        beside, found = model.forward(
            [neighbour, tapped(segment(kv, 0, DEPTH, ids), SPLIT, [], other)]
        )
        close(found, expected)
        close(beside, feed(model, model.new_cache(), before))
        close(feed(model, kv, before), feed(model, split, before))
