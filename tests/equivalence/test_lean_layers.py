"""Layers in few operations compute what transformers' own do around the same attention."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from shared.model import Segment, SpanModel, Tree
from shared.model.attention import attend
from shared.model.lean import LeanLayer, Turn
from shared.model.rows import Rows
from tests.support.tiny_models import DEPTH, NAMES, feed, prompt, whole

BASE = 21  # rows of the line a tree stands on, past the sliding windows


def around(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _: Tensor | None,
    *,
    rows: Rows,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """Our attention as transformers' modules call theirs."""
    fresh, layer = torch.cat((key, value)), module.layer_idx
    options: dict[str, Any] = {"scaling": scaling, "window": sliding_window, "softcap": softcap}
    return attend(rows, layer, query, fresh, **options).unsqueeze(0), None


AttentionInterface.register("tests_around", around)


class Own(LeanLayer):
    """transformers' own layer in the place of a lean one."""

    def __init__(self, layer: Any) -> None:
        layer.self_attn.config._attn_implementation = "tests_around"
        self._layer = layer

    def __call__(self, hidden: Tensor, turn: Turn, rows: Rows) -> Tensor:
        first, second = turn.sine[:, 0].chunk(2, dim=-1)
        embeddings = (turn.cosine[None, :, 0], torch.cat((-first, second), dim=-1)[None])
        found: Tensor = self._layer(
            hidden[None], attention_mask=None, position_embeddings=embeddings, rows=rows
        )
        return found[0]


def outputs(model: SpanModel) -> Sequence[Tensor]:
    """A tree, a single row and a long line in one forward, after rows of different counts."""
    visible = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]) > 0
    tree = Tree(BASE, (BASE, BASE + 1, BASE + 1), visible)
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
    found = outputs(model)
    model._layers = [Own(model.network.model.layers[str(n)]) for n in range(DEPTH)]
    for one, other in zip(found, outputs(model), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=allowed)
