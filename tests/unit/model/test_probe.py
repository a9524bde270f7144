"""tau: how far logits differ between pass shapes on this machine."""

import pytest
import torch

from shared.model import LayerSpan, SpanModel, load_span, probe_tau
from tests.support.tiny_models import DEPTH, NAMES, checkpoint, whole


def upper(dtype: torch.dtype = torch.float32) -> SpanModel:
    span = LayerSpan(2, DEPTH, DEPTH)
    return load_span(checkpoint("gemma3"), span, dtype=dtype, embedding=False, head=True)


@pytest.mark.parametrize("name", NAMES)
def test_tau_is_small_and_falls_with_the_precision(name: str) -> None:
    single, double = probe_tau(whole(name)), probe_tau(whole(name, dtype=torch.float64))
    assert 0 < single < 5e-4
    assert double < 1e-10


def test_tau_is_the_same_each_time_and_leaves_no_kv_behind() -> None:
    model = whole("llama")
    assert probe_tau(model) == probe_tau(model)
    assert model.kv_bytes == 0


def test_a_span_without_embedding_is_probed_with_states() -> None:
    assert 0 < probe_tau(upper()) < 5e-4


def test_an_edge_is_probed_at_its_last_exit() -> None:
    span = LayerSpan(0, 3, DEPTH)
    folder = checkpoint("qwen2")
    edge = load_span(folder, span, dtype=torch.float32, embedding=True, head=False, exits=(2, 3))
    assert 0 < probe_tau(edge) < 5e-4
    bare = load_span(folder, span, dtype=torch.float32, embedding=True, head=False)
    with pytest.raises(ValueError, match="no logits"):
        probe_tau(bare)
