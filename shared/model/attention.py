"""Attention of many sessions in few calls, each over its own cached keys and values.

Called with all rows of a step. Knows neither weights nor which layers come next.
"""

import torch
from torch import Tensor
from torch.nn import functional

from shared.model.rows import Rows


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
    rows.write(layer, fresh)
    place = rows.at(layer)
    outputs = []
    for part in rows.parts(window, query):
        keys, values = part.keys[place], part.values[place]
        queries = query[:, :, part.first : part.last]
        if len(keys) > 1:
            queries = queries.permute(2, 1, 0, 3)
        if softcap is not None:
            seen = _capped(queries, keys, values, part.bias, scaling, softcap)
        elif queries.shape[2] == 1:
            seen = _single(queries, keys, values, part.bias, scaling)
        else:
            seen = _several(queries, keys, values, part.bias, scaling)
        outputs.append(seen)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _single(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scaling: float
) -> Tensor:
    """A row of each session [S, heads, 1, D] over [S, kv_heads, n, D]; returns [S, heads, D].

    The query heads that share a KV head become rows of that head: nothing is repeated, and the
    fused kernel is two to nine times faster so (measured on a CPU at n = 512).
    """
    sessions, heads, _, width = query.shape
    grouped = query.reshape(sessions, keys.shape[1], -1, width)
    output = functional.scaled_dot_product_attention(
        grouped, keys, values, attn_mask=bias, scale=scaling
    )
    return output.reshape(sessions, heads, width)


def _several(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scaling: float
) -> Tensor:
    """Rows of a session [1, heads, T, D] over [1, kv_heads, n, D]; returns [T, heads, D]."""
    output = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=bias, scale=scaling, enable_gqa=True
    )
    return output[0].transpose(0, 1)


def _capped(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    scaling: float,
    softcap: float,
) -> Tensor:
    """As `_single` or `_several`, with capped scores, which the fused kernels do not offer."""
    sessions, heads, rows, width = query.shape
    grouped = query.reshape(sessions, keys.shape[1], -1, rows, width)
    scores = grouped @ keys.unsqueeze(2).transpose(-1, -2) * scaling
    scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + (bias.unsqueeze(1) if bias.dim() == 4 else bias)
    # Half-precision scores are summed in float32, as the fused kernels do.
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = functional.softmax(scores, dim=-1, dtype=wide).to(query.dtype)
    output = (weights @ values.unsqueeze(2)).reshape(sessions, heads, rows, width)
    return output.transpose(1, 2).reshape(sessions * rows, heads, width)
