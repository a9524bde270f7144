"""A tiny random model that speaks in words, for services in float64: a checkpoint with a tokenizer.

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
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from tests.support.reference import Bundles, Continuation, generate, partition, whole
from tests.support.tiny_models import VOCABULARY, write_checkpoint

FAMILY = "qwen3"
SPLIT, EDGE_DEPTH = 2, 3
PROMPT_TOKENS = 24


@cache
def checkpoint() -> Path:
    """The checkpoint's folder, with weights in float64."""
    folder = Path(tempfile.mkdtemp(prefix="worded-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_checkpoint(FAMILY, folder, dtype=torch.float64)
    words = {f"w{n}": n for n in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "w2"}))
    return folder


@cache
def bundles() -> Bundles:
    """Its bundles."""
    return partition(checkpoint(), SPLIT, EDGE_DEPTH)


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
