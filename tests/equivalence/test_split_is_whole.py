"""A model cut at any layer computes what transformers computes with the whole of it."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.masking_utils import eager_mask

from shared.model import LayerSpan, SpanModel, load_span
from tests.support.tiny_models import DEPTH, NAMES, WINDOW, checkpoint, feed, prompt

ROWS = 40
FLOAT32 = 2e-5
FLOAT64 = 1e-10
assert ROWS > 4 * WINDOW


def plain_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' eager attention, which takes its softmax in float32 even in a float64 model,
    without that.
    """
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = nn.functional.softmax(scores + attention_mask, dim=-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2), None


AttentionInterface.register("tests_plain", plain_attention)
AttentionMaskInterface.register("tests_plain", eager_mask)


@cache
def reference(name: str, dtype: torch.dtype, attention: str) -> Tensor:
    """transformers' logits [T, V] for the prompt."""
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint(name), attn_implementation=attention, dtype=dtype
    )
    with torch.no_grad():
        logits: Tensor = model(prompt(ROWS).unsqueeze(0)).logits[0]
    return logits


def spans(name: str, split: int, dtype: torch.dtype) -> tuple[SpanModel, SpanModel]:
    """The model cut at `split`."""
    folder = checkpoint(name)
    lower, upper = LayerSpan(0, split, DEPTH), LayerSpan(split, DEPTH, DEPTH)
    return (
        load_span(folder, lower, dtype=dtype, embedding=True, head=False),
        load_span(folder, upper, dtype=dtype, embedding=False, head=True),
    )


@pytest.mark.parametrize("chunks", [(), (1,) * ROWS], ids=["prefill", "token by token"])
@pytest.mark.parametrize("split", range(1, DEPTH))
@pytest.mark.parametrize("name", NAMES)
def test_split_is_whole_at_every_layer(name: str, split: int, chunks: tuple[int, ...]) -> None:
    lower, upper = spans(name, split, torch.float32)
    with lower.new_cache() as below, upper.new_cache() as above:
        states = feed(lower, below, prompt(ROWS), chunks=chunks)
        logits = upper.logits(feed(upper, above, states, chunks=chunks))
    expected = reference(name, torch.float32, "eager")
    assert float(expected.std()) > 0.5, "logits this small would hide an error"
    torch.testing.assert_close(logits, expected, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("chunks", [(), (1,) * ROWS], ids=["prefill", "token by token"])
@pytest.mark.parametrize("name", NAMES)
def test_split_is_whole_in_float64_without_allowance(name: str, chunks: tuple[int, ...]) -> None:
    lower, upper = spans(name, 2, torch.float64)
    with lower.new_cache() as below, upper.new_cache() as above:
        states = feed(lower, below, prompt(ROWS), chunks=chunks)
        logits = upper.logits(feed(upper, above, states, chunks=chunks))
    assert logits.dtype == torch.float64
    expected = reference(name, torch.float64, "tests_plain")
    torch.testing.assert_close(logits, expected, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_that_travels_is_the_one_transformers_computes(name: str) -> None:
    lower, _ = spans(name, 3, torch.float32)
    model = AutoModelForCausalLM.from_pretrained(checkpoint(name), attn_implementation="eager")
    with torch.no_grad():
        hidden = model(prompt(ROWS).unsqueeze(0), output_hidden_states=True).hidden_states
    with lower.new_cache() as below:
        states = feed(lower, below, prompt(ROWS))
    torch.testing.assert_close(states, hidden[3][0], rtol=0, atol=FLOAT32)
