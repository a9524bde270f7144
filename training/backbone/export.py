"""A trained model written as a checkpoint folder that every Hugging Face loader understands.

Weights are rounded to bfloat16 and cut into shards a git host accepts; exits lie beside them in
files of their own, which ordinary loaders ignore. What the exits' thresholds should be is not
known here: an export names them untuned.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedTokenizerFast

from shared.model.exits import UNTUNED_THRESHOLD, WEIGHTS
from training.backbone.model import EarlyExitLlama
from training.exits import ExitPoint, write_exits

SHARD_LIMIT = "14MB"


def export(
    model: EarlyExitLlama,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    *,
    training: Mapping[str, Any],
) -> None:
    """Write weights, configuration, tokenizer, exits and `training.json` to `out`.

    Files of an earlier export are replaced; anything measured on earlier weights is removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = (
        "calibration.json",
        "evaluation.json",
        "agreement*.json",
        "drafter-*.json",
        "translators.*",
    )
    measured = [path for name in names for path in out.glob(name)]
    for stale in (*out.glob("*.safetensors*"), *measured):
        stale.unlink(missing_ok=True)
    shipped: Any = deepcopy(model.llama)
    shipped = shipped.to("cpu", torch.bfloat16)
    shipped.set_attn_implementation("sdpa")
    shipped.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    shipped.save_pretrained(out, max_shard_size=SHARD_LIMIT)
    tokenizer.model_max_length = model.llama.config.max_position_embeddings
    tokenizer.save_pretrained(out)
    _generalise_tokenizer(out / "tokenizer_config.json")
    norms = {
        f"exits.{layer}.{name}": weight.to("cpu", torch.bfloat16)
        for layer, norm in model.exit_norms.items()
        for name, weight in norm.state_dict(prefix="norm.").items()
    }
    save_file(norms, out / WEIGHTS)
    write_exits(out, [ExitPoint(layer, UNTUNED_THRESHOLD, None) for layer in model.exits])
    (out / "training.json").write_text(json.dumps(training, indent=2) + "\n")
    # safetensors writes for its owner alone; images are built and volumes mounted by others.
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)


def _generalise_tokenizer(path: Path) -> None:
    """Name the class every version knows, and leave out what only says how this one was loaded."""
    content = json.loads(path.read_text())
    content["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("backend", "is_local", "local_files_only"):
        content.pop(name, None)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
