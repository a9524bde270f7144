"""How far the logits of one model differ between pass shapes, measured on the machine at hand.

Floating-point sums depend on the shape of the pass; where the two best tokens are closer than this,
two correct passes may choose differently. Knows nothing of sessions or requests.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from shared.model.cache import KVCache
from shared.model.model import SpanModel
from shared.model.ragged import Segment

_ROWS = 24
_CHUNK = 7
_FACTOR = 4.0


def probe_tau(model: SpanModel) -> float:
    """Four times the largest logit difference between pass shapes on a fixed pseudo-random prompt.

    The same rows run one at a time, in chunks, all at once, and in chunks beside another session.
    Read at the head, or at the last exit of a span without one.

    Raises:
        ValueError: the span has neither head nor exit.
        OutOfMemory: the KV budget has no room for the probe.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, others = (_inputs(model, generator) for _ in range(2))
    shapes: tuple[tuple[int, Tensor | None], ...] = ((1, None), (_CHUNK, None), (_CHUNK, others))
    whole = _logits(model, inputs, _ROWS, None)
    passes = [whole, *(_logits(model, inputs, rows, beside) for rows, beside in shapes)]
    spread = torch.stack(passes)
    return _FACTOR * float((spread.amax(0) - spread.amin(0)).max())


def _inputs(model: SpanModel, generator: torch.Generator) -> Tensor:
    """Token ids [T] where they may enter, else states [T, H] of unit variance."""
    if model.network.model.embed_tokens is not None and model.span.start == 0:
        return torch.randint(0, model.shape.vocab, (_ROWS,), generator=generator)
    return torch.randn(_ROWS, model.shape.hidden, generator=generator)


def _logits(model: SpanModel, inputs: Tensor, rows: int, beside: Tensor | None) -> Tensor:
    """Logits [T, V] of `inputs` run `rows` at a time, each pass shared with as many rows of
    `beside`.
    """
    sessions: Sequence[Tensor] = [inputs] if beside is None else [beside, inputs]
    parts = []
    with ExitStack() as stack:
        caches = [stack.enter_context(model.new_cache()) for _ in sessions]
        for first in range(0, len(inputs), rows):
            segments = [
                _segment(model, cache, session[first : first + rows], first)
                for cache, session in zip(caches, sessions, strict=True)
            ]
            parts.append(_read(model, model.forward(segments)[-1]))
    return torch.cat(parts)


def _segment(model: SpanModel, cache: KVCache, rows: Tensor, position: int) -> Segment:
    is_ids = rows.dim() == 1
    return Segment(
        cache=cache,
        start=model.span.start,
        stop=model.span.stop,
        position=position,
        ids=rows if is_ids else None,
        states=None if is_ids else rows,
    )


def _read(model: SpanModel, states: Tensor) -> Tensor:
    if model.span.stop == model.span.depth:
        return model.logits(states)
    if model.span.stop not in model.exits:
        raise ValueError("a span without head or last exit has no logits to probe")
    return model.exit_logits(model.span.stop, states)
