"""Attention of many sessions in one call, each over its own cached keys and values.

Called with all rows of a step. Knows neither weights nor which layers come next.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from shared.model.cache import KVCache
from shared.model.masks import Sight


@dataclass(frozen=True, slots=True)
class Run:
    """Rows [first, last) of a step: those of one session, at `sight.position` and the following
    slots of its cache.
    """

    cache: KVCache
    first: int
    last: int
    sight: Sight


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one step at the layers where the same sessions are active."""

    runs: tuple[Run, ...]


def attend(
    rows: Rows,
    layer: int,
    query: Tensor,
    fresh: Tensor,
    *,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Append keys and values to each session's cache and attend to all it then holds.

    Args:
        rows: whose rows these are; their caches have room.
        layer: whose keys and values they are.
        query: [1, heads, T, D], rotated.
        fresh: keys (rotated) and values [2, kv_heads, T, D]: together one copy per session.
        scaling: factor on the scores.
        window: a row sees this many positions, itself included (None: all).
        softcap: scores become softcap * tanh(score / softcap).

    Returns:
        [T, heads, D].
    """
    outputs = []
    for run in rows.runs:
        buffer = run.cache.buffer(layer)
        buffer[:, :, run.sight.position : run.sight.end] = fresh[:, :, run.first : run.last]
        begin, bias = run.sight.through(window, query)
        held = buffer[:, :, begin : run.sight.end]
        queries = query[:, :, run.first : run.last]
        if softcap is not None:
            outputs.append(_capped(queries, held, bias, scaling, softcap))
        elif run.last - run.first == 1:
            outputs.append(_single(queries, held, bias, scaling))
        else:
            outputs.append(_several(queries, held, bias, scaling))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _single(query: Tensor, held: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """One row [1, heads, 1, D] over `held` [2, kv_heads, n, D]; returns [1, heads, D].

    The query heads that share a KV head become rows of that head: nothing is repeated, and the
    fused kernel is two to nine times faster so (measured on a CPU at n = 512).
    """
    heads, width = query.shape[1], query.shape[3]
    grouped = query.reshape(1, held.shape[1], -1, width)
    output = functional.scaled_dot_product_attention(
        grouped, held[:1], held[1:], attn_mask=bias, scale=scaling
    )
    return output.reshape(1, heads, width)


def _several(query: Tensor, held: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """Rows [1, heads, T, D] over `held` [2, kv_heads, n, D]; returns [T, heads, D]."""
    output = functional.scaled_dot_product_attention(
        query, held[:1], held[1:], attn_mask=bias, scale=scaling, enable_gqa=True
    )
    return output[0].transpose(0, 1)


def _capped(
    query: Tensor, held: Tensor, bias: Tensor | None, scaling: float, softcap: float
) -> Tensor:
    """As `_several`, with capped scores, which the fused kernels do not offer."""
    _, heads, rows, width = query.shape
    grouped = query.reshape(held.shape[1], -1, rows, width)
    scores = grouped @ held[0].unsqueeze(1).transpose(-1, -2) * scaling
    scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    # Half-precision scores are summed in float32, as the fused kernels do.
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = functional.softmax(scores, dim=-1, dtype=wide).to(query.dtype)
    return (weights @ held[1].unsqueeze(1)).reshape(heads, rows, width).transpose(0, 1)
