"""Tiny random models that speak in words, for services in float64: checkpoints with a tokenizer.

Word n is `w<n>`; there is one id a word and every text of words is a prompt.
"""

import atexit
import json
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor

from tests.support.reference import Bundles, Continuation, generate, partition, whole
from tests.support.tiny_models import VOCABULARY, write_checkpoint

FAMILY = "qwen3"
SPLIT, EDGE_DEPTH = 2, 3
PROMPT_TOKENS = 24


@cache
def checkpoint(family: str = FAMILY, upper: float = 1.0) -> Path:
    """The checkpoint's folder, with weights in float64.

    What the layers beyond the edge's add is scaled by `upper`: the less they do, the more often the
    edge's deepest exit, which is not trained, is right.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"worded-{family}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_checkpoint(family, folder, dtype=torch.float64)
    if upper != 1:
        _scale(folder / "model.safetensors", family, upper)
    words = {f"w{n}": n for n in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w2"}))
    return folder


@cache
def bundles(family: str = FAMILY, upper: float = 1.0, cloud_start: int = 0) -> Bundles:
    """Its bundles."""
    return partition(checkpoint(family, upper), SPLIT, EDGE_DEPTH, cloud_start)


@cache
def prompts(count: int) -> list[str]:
    """Texts of `PROMPT_TOKENS` words."""
    draw = random.Random(0)
    return [
        " ".join(f"w{draw.randrange(3, VOCABULARY)}" for _ in range(PROMPT_TOKENS))
        for _ in range(count)
    ]


@cache
def reference(count: int, new_tokens: int) -> list[Continuation]:
    """What transformers makes of the prompts in float64."""
    ids = [[int(word[1:]) for word in prompt.split()] for prompt in prompts(count)]
    return generate(whole(checkpoint(), torch.float64), ids, new_tokens=new_tokens)


def _scale(file: Path, family: str, factor: float) -> None:
    """Scale what the layers from `EDGE_DEPTH` on add to the states."""

    def scaled(name: str, weight: Tensor) -> Tensor:
        parts = name.split(".")
        if "layers" not in parts or int(parts[parts.index("layers") + 1]) < EDGE_DEPTH:
            return weight
        if family.startswith("gemma"):  # whose norms come last, and multiply by 1 + weight
            last = parts[-2] in ("post_attention_layernorm", "post_feedforward_layernorm")
            return factor * (1 + weight) - 1 if last else weight
        return weight * factor if parts[-2] in ("o_proj", "down_proj") else weight

    weights = {name: scaled(name, weight) for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
