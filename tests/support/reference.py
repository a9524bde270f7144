"""The reference model: its bundles, and what transformers itself makes of it.

Everything here is made once per process and not to be changed by a test.
"""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from services.edge.text import TextCodec
from shared.model import SpanModel, load_bundle, probe_tau, write_bundles
from shared.protocol.version import PROTOCOL_VERSION

MODEL = Path(__file__).parents[2] / "models" / "tandem-10m"
SPLIT, EDGE_DEPTH = 3, 6


@dataclass(frozen=True, slots=True)
class Bundles:
    """The folders of a pair of bundles."""

    edge: Path
    cloud: Path


@dataclass(frozen=True, slots=True)
class Continuation:
    """What transformers generates after a prompt; `margins[i]` is the lead of token i's logit."""

    ids: list[int]
    margins: list[float]


def partition(source: Path, split: int, edge_depth: int, cloud_start: int = 0) -> Bundles:
    """Write float32 bundles of a checkpoint to a folder that lives as long as this process."""
    out = Path(tempfile.mkdtemp(prefix=f"bundles-{source.name}-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    write_bundles(
        source,
        out,
        split=split,
        edge_depth=edge_depth,
        edge_format="fp32",
        cloud_format="fp32",
        cloud_start=cloud_start,
        protocol_version=PROTOCOL_VERSION,
        progress=None,
    )
    return Bundles(out / "edge", out / "cloud")


@cache
def bundles(split: int = SPLIT, edge_depth: int = EDGE_DEPTH, cloud_start: int = 0) -> Bundles:
    """Bundles of the reference model."""
    return partition(MODEL, split, edge_depth, cloud_start)


@cache
def loaded(bundle: Path, dtype: torch.dtype | None = None) -> SpanModel:
    """A bundle's model; services made one after another may share it."""
    return load_bundle(bundle, dtype=dtype)


@cache
def text() -> TextCodec:
    """The reference model's tokenizer."""
    return TextCodec(bundles().edge)


@cache
def tau() -> float:
    """The margin in logits below which two pass shapes of the reference model may differ."""
    return probe_tau(loaded(bundles().cloud))


@cache
def whole(source: Path = MODEL, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' own model of a checkpoint."""
    return AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager", dtype=dtype)


def generate(
    model: Any, prompts: Sequence[Sequence[int]], *, new_tokens: int, at_least: int = 0
) -> list[Continuation]:
    """transformers' greedy `generate` for prompts of equal length, each cut after its end."""
    given = torch.tensor([list(ids) for ids in prompts])
    with torch.inference_mode():
        out = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=at_least,
            output_scores=True,
            return_dict_in_generate=True,
        )
    best = torch.stack(out.scores).topk(2).values  # [new tokens, prompts, 2]
    margins = (best[..., 0] - best[..., 1]).T.tolist()
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    rows = out.sequences[:, given.shape[1] :].tolist()
    return [
        Continuation(row[:length], lead[:length])
        for row, lead in zip(rows, margins, strict=True)
        for length in [next((n + 1 for n, token in enumerate(row) if token in ends), len(row))]
    ]
