"""Decoder layers in few operations: what transformers' layers compute, with less around it.

A step over few rows reads every weight once and is over in milliseconds, and then what is called
around the matrix products counts: here norms and rotary embeddings are a few operations over all
heads at once, on rows without a batch axis, and only the linear modules are called. Knows no
sessions and no weights' names.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer
from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from shared.model.attention import attend
from shared.model.rows import Rows

# Their blocks' outputs are normed before they are added.
GEMMA = (Gemma2DecoderLayer, Gemma3DecoderLayer)
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Turn:
    """The rotary embedding of a step's rows, [T, 1, D] each; the sine's first half is negated, so
    that a row turned is row * cosine + (row with its halves exchanged) * sine.
    """

    cosine: Tensor
    sine: Tensor

    @classmethod
    def of(cls, cosine: Tensor, sine: Tensor) -> "Turn":
        """Of what a rotary module gives, [1, T, D] each."""
        first, second = sine[0].chunk(2, dim=-1)
        return cls(cosine[0].unsqueeze(1), torch.cat((-first, second), dim=-1).unsqueeze(1))

    def __call__(self, rows: Tensor) -> Tensor:
        """Turn rows [T, heads, D]."""
        first, second = rows.chunk(2, dim=-1)
        return rows * self.cosine + torch.cat((second, first), dim=-1) * self.sine


class LeanLayer:
    """A decoder layer of one of the families, by its own linear modules and norms."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._index: int = attention.layer_idx
        self._width: int = attention.head_dim
        self._keys: int = attention.config.num_key_value_heads
        self._queries: int = attention.config.num_attention_heads
        self._scaling: float = attention.scaling
        # Mistral has it in the configuration alone, the same for all layers.
        knows = attention.config if type(layer) is MistralDecoderLayer else attention
        self._window: int | None = getattr(knows, "sliding_window", None)
        # Gemma 3 has the attribute and does not use it.
        capped = type(layer) is Gemma2DecoderLayer
        self._softcap: float | None = attention.attn_logit_softcapping if capped else None
        self._project = _projection(attention)
        self._out: Map = attention.o_proj
        self._halves = _halves(mlp)
        self._down: Map = mlp.down_proj
        self._activation: Map = mlp.act_fn
        self._before = _norm(layer.input_layernorm)
        after = _norm(layer.post_attention_layernorm)
        self._after: Map | None = None
        self._end: Map | None = None
        self._between = after
        if type(layer) in GEMMA:
            self._after, self._end = after, _norm(layer.post_feedforward_layernorm)
            self._between = _norm(layer.pre_feedforward_layernorm)
        self._norms = _head_norms(attention, self._queries)

    def __call__(self, hidden: Tensor, turn: Turn, rows: Rows) -> Tensor:
        """States [T, H] that enter the layer to those that leave it."""
        heads = self._project(self._before(hidden)).view(len(hidden), -1, self._width)
        turning = self._queries + self._keys
        turned, values = heads[:, :turning], heads[:, turning:]
        if self._norms is not None:
            turned = self._norms(turned)
        turned = turn(turned)
        fresh = torch.stack((turned[:, self._queries :], values)).transpose(1, 2)
        query = turned[:, : self._queries].transpose(0, 1).unsqueeze(0)
        seen = attend(
            rows,
            self._index,
            query,
            fresh,
            scaling=self._scaling,
            window=self._window,
            softcap=self._softcap,
        )
        added = self._out(seen.reshape(len(hidden), -1))
        hidden = hidden + (added if self._after is None else self._after(added))
        gate, up = self._halves(self._between(hidden))
        added = self._down(self._activation(gate) * up)
        return hidden + (added if self._end is None else self._end(added))


def _projection(attention: Any) -> Map:
    """Rows to their queries, keys and values side by side: one product where they are packed."""
    if hasattr(attention, "qkv_proj"):
        joined: Map = attention.qkv_proj
        return joined
    apart: Sequence[Map] = (attention.q_proj, attention.k_proj, attention.v_proj)
    return lambda rows: torch.cat([project(rows) for project in apart], dim=-1)


def _halves(mlp: Any) -> Callable[[Tensor], Sequence[Tensor]]:
    """Rows to gate and up: one product where they are packed."""
    if hasattr(mlp, "gate_up_proj"):
        joined: Map = mlp.gate_up_proj
        return lambda rows: joined(rows).chunk(2, dim=-1)
    gate, up = mlp.gate_proj, mlp.up_proj
    return lambda rows: (gate(rows), up(rows))


def _norm(module: Any) -> Map:
    """transformers' RMS norm, which computes in float32 whatever the states are. Gemma's calls its
    epsilon otherwise, holds its weight less 1, and multiplies before it rounds.
    """
    weight: Tensor = module.weight.detach()
    shape = tuple(weight.shape)
    if hasattr(module, "eps"):
        wide, own = 1.0 + weight.float(), float(module.eps)
        return lambda rows: functional.rms_norm(rows.float(), shape, wide, own).to(rows.dtype)
    eps = float(module.variance_epsilon)
    if weight.dtype == torch.float32:
        return lambda rows: functional.rms_norm(rows, shape, weight, eps)
    if weight.dtype == torch.bfloat16:  # of which torch computes in float32 by itself
        return lambda rows: weight * functional.rms_norm(rows, shape, None, eps)
    return lambda rows: weight * functional.rms_norm(rows.float(), shape, None, eps).to(rows.dtype)


def _head_norms(attention: Any, queries: int) -> Map | None:
    """Norms over each head's query or key, where a family has them."""
    if not hasattr(attention, "q_norm"):
        return None
    query, key = _norm(attention.q_norm), _norm(attention.k_norm)
    return lambda rows: torch.cat((query(rows[:, :queries]), key(rows[:, queries:])), dim=1)
