"""Spans and shapes: which layers, and how large, for every family."""

import pytest

from shared.model import LayerSpan, ModelShape
from tests.support.tiny_models import DEPTH, VOCABULARY, tiny_config


@pytest.mark.parametrize("numbers", [(-1, 2, 5), (2, 2, 5), (3, 2, 5), (0, 6, 5), (0, 1, 0)])
def test_layers_that_are_no_span_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="is no span"):
        LayerSpan(*numbers)


def test_a_span_holds_its_first_layer_and_not_its_last() -> None:
    assert list(LayerSpan(2, 5, 5).layers) == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "hidden", "heads", "kv_heads", "head_dim"),
    [
        ("llama", 32, 4, 2, 8),
        ("qwen2", 48, 6, 2, 8),
        ("qwen3", 32, 4, 1, 16),
        ("mistral", 32, 4, 4, 12),
        ("gemma2", 36, 4, 2, 16),
        ("gemma3", 40, 4, 1, 8),
    ],
)
def test_the_shape_of_every_family_is_read_from_its_configuration(
    name: str, hidden: int, heads: int, kv_heads: int, head_dim: int
) -> None:
    assert ModelShape.of(tiny_config(name)) == ModelShape(
        depth=DEPTH,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=VOCABULARY,
        max_positions=256,
    )
