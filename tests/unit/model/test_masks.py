"""What rows see: slots of lines and of trees, through windows, and the trees that are refused."""

import random
from dataclasses import replace

import pytest
import torch

from shared.model import Tree
from shared.model.masks import Sight
from tests.support.tiny_models import DEPTH, feed, prompt, segment, whole

LIKE = torch.zeros(0, dtype=torch.float64)


def ancestry(parents: list[int]) -> torch.Tensor:
    """Which node sees which: itself and its ancestors."""
    visible = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] |= visible[parent]
    return visible


def seen(sight: Sight, window: int | None) -> list[set[int]]:
    """The slots each row sees."""
    begin, bias = sight.through(window, LIKE)
    rows, keys = sight.end - sight.position, sight.end - begin
    shown = LIKE.new_zeros(rows, keys) if bias is None else bias
    assert shown.shape == (rows, keys)
    return [{begin + int(n) for n in (row == 0).nonzero()} for row in shown]


def test_a_row_sees_the_line_and_its_ancestors_as_far_as_its_window_reaches() -> None:
    chance = random.Random(0)
    for _ in range(300):
        base, nodes = chance.randrange(8), chance.randrange(1, 9)
        parents = [chance.randrange(-1, node) for node in range(nodes)]
        visible = ancestry(parents)
        places = [*range(base), *(base - 1 + int(row.sum()) for row in visible)]
        first = chance.randrange(nodes)
        tree = Tree(base, tuple(places[base:]), visible[first:])
        sight = Sight(base + first, base + nodes, tree)
        for window in (None, 1, 2, 5):
            expected = [
                {
                    slot
                    for slot, place in enumerate(places)
                    if (slot < base or visible[node, slot - base])
                    and (window is None or place > places[base + node] - window)
                }
                for node in range(first, nodes)
            ]
            assert seen(sight, window) == expected
            assert sight.through(window, LIKE)[0] == min(min(each) for each in expected)


def test_a_tree_that_is_a_line_sees_what_the_line_does() -> None:
    tree = Tree(5, tuple(range(5, 11)), torch.ones(4, 6, dtype=torch.bool).tril(2))
    for window in (None, 1, 3, 50):
        begin, bias = Sight(7, 11, tree).through(window, LIKE)
        expected_begin, expected = Sight(7, 11, None).through(window, LIKE)
        assert begin == expected_begin
        assert bias is not None
        assert expected is not None
        assert torch.equal(bias, expected)


def test_nothing_is_added_where_a_row_sees_every_key() -> None:
    last_of_a_line = Tree(3, (3, 4, 5), torch.tensor([[True, True, True]]))
    beside_another = Tree(3, (3, 4, 4), torch.tensor([[True, False, True]]))
    assert Sight(5, 6, last_of_a_line).through(None, LIKE) == (0, None)
    assert Sight(5, 6, last_of_a_line).through(2, LIKE) == (4, None)
    assert Sight(5, 6, beside_another).through(1, LIKE) == (5, None)
    assert Sight(5, 6, beside_another).through(2, LIKE)[1] is not None


def test_what_is_seen_is_computed_once_a_window() -> None:
    tree = Tree(3, (3, 4, 4), torch.tensor([[True, False, True]]))
    for sight in (Sight(5, 6, tree), Sight(3, 9, None)):
        first, wide = sight.through(2, LIKE), sight.through(None, LIKE)
        assert first[0] > wide[0] == 0
        assert sight.through(2, LIKE) is first
        assert sight.through(None, LIKE) is wide


def test_trees_that_do_not_fit_their_rows_are_refused() -> None:
    model = whole("llama")
    kv = model.new_cache()
    feed(model, kv, prompt(4))
    fine = Tree(3, (3, 4, 4), torch.tensor([[1, 1, 0], [1, 0, 1]]).bool())
    wrong = {
        "from slot 5 on": replace(fine, base=5),
        "from slot -1 on": replace(fine, base=-1),
        "2 positions for 3 slots": replace(fine, positions=(3, 4)),
        "position -2 in a tree is negative": replace(fine, positions=(3, -2, 4)),
        "beyond the model's 256": replace(fine, positions=(3, 4, 256)),
        r"torch.bool \[2, 2\], not torch.bool \[2, 3\]": replace(fine, visible=fine.visible[:, :2]),
        r"torch.bool \[1, 3\]": replace(fine, visible=fine.visible[:1]),
        r"torch.int64 \[2, 3\]": replace(fine, visible=fine.visible.long()),
        "does not see its own slot": replace(fine, visible=fine.visible.flip(0)),
    }
    rows = segment(kv, 0, DEPTH, prompt(2))
    for match, tree in wrong.items():
        with pytest.raises(ValueError, match=match):
            model.forward([replace(rows, tree=tree)])
    assert {kv.length(layer) for layer in range(DEPTH)} == {4}
    model.forward([replace(rows, tree=fine)])
    assert {kv.length(layer) for layer in range(DEPTH)} == {6}


def test_slots_may_outnumber_the_models_positions() -> None:
    """A wide tree takes more slots than it is deep."""
    model = whole("llama")
    with model.new_cache() as kv:
        feed(model, kv, prompt(255))
        siblings = Tree(255, (255,) * 3, torch.eye(3, dtype=torch.bool))
        model.forward([replace(segment(kv, 0, DEPTH, prompt(3)), tree=siblings)])
        assert kv.length(0) == 258
