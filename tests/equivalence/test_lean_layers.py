"""Layers in few operations compute what transformers' own do."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from shared.model import Segment, SpanModel, Tree
from shared.model.lean import lean
from tests.support.tiny_models import DEPTH, NAMES, feed, prompt, whole

BASE = 21  # rows of the line a tree stands on, past the sliding windows


def outputs(model: SpanModel) -> Sequence[Tensor]:
    """A tree, a single row and a long line in one forward, after rows of different counts."""
    tree = Tree(
        BASE, (BASE, BASE + 1, BASE + 1), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]) > 0
    )
    plans = [(BASE, 3, tree), (30, 1, None), (0, 40, None)]
    segments = []
    for seed, (before, now, sees) in enumerate(plans):
        kv = model.new_cache()
        if before:
            feed(model, kv, prompt(before, seed=seed))
        segments.append(Segment(kv, 0, DEPTH, before, prompt(now, seed=9 + seed), None, tree=sees))
    found = model.forward(segments)
    return [*found, model.logits(torch.cat(found))]


@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float64, 1e-10), (torch.float32, 2e-5), (torch.bfloat16, 0.0)]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_lean_layer_is_transformers_own(name: str, dtype: torch.dtype, allowed: float) -> None:
    model = whole(name, dtype=dtype)
    assert all(layer is not None for layer in model._lean)
    found = outputs(model)
    model._lean = [None] * DEPTH
    for one, other in zip(found, outputs(model), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=allowed)


def test_a_layer_of_another_kind_stays_as_it_is() -> None:
    assert lean(torch.nn.Linear(2, 2)) is None
