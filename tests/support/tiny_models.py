"""Tiny random checkpoints of every family, unlike each other where families differ.

Together they have grouped-query attention, tied and untied heads, biases, query and key norms, soft
caps, scaled embeddings, a head_dim unlike hidden / heads, mixed layer types and windows of 8.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from shared.model import KVCache, LayerSpan, Segment, SpanModel, load_span
from shared.model.families import FAMILIES

VOCABULARY = 97
WINDOW = 8
DEPTH = 5
_SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": DEPTH,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
_MIXED = ["sliding_attention", "full_attention"] * DEPTH

_CONFIGS: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(
        **_SIZES,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "qwen2": lambda: Qwen2Config(
        **_SIZES,
        hidden_size=48,
        intermediate_size=64,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=2,
    ),
    "qwen3": lambda: Qwen3Config(
        **_SIZES,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
    ),
    "mistral": lambda: MistralConfig(
        **_SIZES,
        hidden_size=32,
        intermediate_size=56,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=12,
        tie_word_embeddings=False,
        sliding_window=WINDOW,
    ),
    "gemma2": lambda: Gemma2Config(
        **_SIZES,
        hidden_size=36,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=24,
        sliding_window=WINDOW,
        layer_types=_MIXED[:DEPTH],
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        tie_word_embeddings=True,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **_SIZES,
        hidden_size=40,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=12,
        sliding_window=WINDOW,
        layer_types=_MIXED[:DEPTH],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        },
        tie_word_embeddings=True,
    ),
}
NAMES = tuple(_CONFIGS)


def tiny_config(name: str) -> PreTrainedConfig:
    """The configuration of the family's tiny model."""
    return _CONFIGS[name]()


def write_checkpoint(
    name: str, folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, **save: Any
) -> Path:
    """Write a random checkpoint of the family's tiny model; norms and biases are random too."""
    config = tiny_config(name)
    architecture = next(key for key, family in FAMILIES.items() if family.config is type(config))
    generator = torch.Generator().manual_seed(seed)
    model = FAMILIES[architecture].model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.2 if parameter.dim() > 1 else 0.5
            offset = 0.0 if parameter.dim() > 1 else float(parameter.mean())
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread + offset)
    module: torch.nn.Module = model
    module.to(dtype)
    model.save_pretrained(folder, **save)
    return folder


@cache
def checkpoint(name: str) -> Path:
    """A float32 checkpoint of the family's tiny model, written once per process; not to be
    changed.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"tiny-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_checkpoint(name, folder)


def whole(name: str, *, dtype: torch.dtype = torch.float32, exits: Iterable[int] = ()) -> SpanModel:
    """The family's tiny model in one span."""
    return load_span(
        checkpoint(name),
        LayerSpan(0, DEPTH, DEPTH),
        dtype=dtype,
        embedding=True,
        head=True,
        exits=tuple(exits),
    )


def feed(
    model: SpanModel,
    kv: KVCache,
    inputs: Tensor,
    *,
    start: int | None = None,
    stop: int | None = None,
    chunks: Iterable[int] = (),
) -> Tensor:
    """Run ids [T] or states [T, H] of one session in chunks of these sizes, and what is left at
    once; returns states [T, H].
    """
    first = model.span.start if start is None else start
    last = model.span.stop if stop is None else stop
    outputs, done = [], 0
    for size in [*chunks, len(inputs)]:
        rows = inputs[done : done + size]
        if len(rows):
            outputs += model.forward([segment(kv, first, last, rows)])
            done += len(rows)
    return torch.cat(outputs)


def segment(kv: KVCache, start: int, stop: int, rows: Tensor) -> Segment:
    """The next rows of a session: ids [T] or states [T, H]."""
    is_ids = rows.dim() == 1
    return Segment(
        cache=kv,
        start=start,
        stop=stop,
        position=kv.length(start),
        ids=rows if is_ids else None,
        states=None if is_ids else rows,
    )


def prompt(length: int, *, seed: int = 0) -> torch.Tensor:
    """Fixed pseudo-random token ids [length] int64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (length,), generator=generator)
