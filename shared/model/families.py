"""The model families that can be cut, and the refusal of everything else.

Says which transformers classes a family is made of and which features of a configuration the ragged
forward honours; builds nothing.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from shared.errors import BadModel

# Rotary embeddings whose frequencies are fixed when the model is built. The others ("dynamic",
# "longrope") depend on the longest sequence of a batch, so a token's result would depend on its
# batch-mates.
FIXED_ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})


@dataclass(frozen=True, slots=True)
class Family:
    """The transformers classes of one family; in some the rotary embedding differs by layer
    type.
    """

    model: type[PreTrainedModel]
    layer: type[nn.Module]
    rotary_by_layer_type: bool = False

    @property
    def config(self) -> type[PreTrainedConfig]:
        """The class of its configuration."""
        assert self.model.config_class is not None
        return self.model.config_class


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(modeling_llama.LlamaForCausalLM, modeling_llama.LlamaDecoderLayer),
    "Qwen2ForCausalLM": Family(modeling_qwen2.Qwen2ForCausalLM, modeling_qwen2.Qwen2DecoderLayer),
    "Qwen3ForCausalLM": Family(modeling_qwen3.Qwen3ForCausalLM, modeling_qwen3.Qwen3DecoderLayer),
    "MistralForCausalLM": Family(
        modeling_mistral.MistralForCausalLM, modeling_mistral.MistralDecoderLayer
    ),
    "Gemma2ForCausalLM": Family(
        modeling_gemma2.Gemma2ForCausalLM, modeling_gemma2.Gemma2DecoderLayer
    ),
    "Gemma3ForCausalLM": Family(
        modeling_gemma3.Gemma3ForCausalLM,
        modeling_gemma3.Gemma3DecoderLayer,
        rotary_by_layer_type=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint's architecture: its name, its family and its configuration."""

    architecture: str
    family: Family
    config: PreTrainedConfig

    @property
    def tied(self) -> bool:
        """Whether the unembedding is the embedding."""
        return bool(self.config.tie_word_embeddings)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadModel: there is no such file, or it holds no JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadModel(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BadModel(f"{path} is not a JSON object")
    return content


def read_source(folder: Path) -> Source:
    """Read `config.json` of a checkpoint or bundle.

    Raises:
        BadModel: naming the architecture or feature that is not supported.
    """
    raw = read_json(folder / "config.json")
    named = raw.get("architectures")
    architecture = named[0] if isinstance(named, list) and len(named) == 1 else repr(named)
    family = FAMILIES.get(architecture)
    if family is None:
        known = ", ".join(FAMILIES)
        raise BadModel(f"architecture {architecture} is not supported; supported are {known}")
    try:
        config = family.config.from_pretrained(folder)
    except Exception as error:  # the many ways transformers has to dislike a configuration
        raise BadModel(f"{folder / 'config.json'} is not usable: {error}") from error
    _refuse_unsupported(config, raw)
    return Source(architecture, family, config)


def _refuse_unsupported(config: PreTrainedConfig, raw: Mapping[str, Any]) -> None:
    for rope_type in _rope_types(config.rope_parameters):
        if rope_type not in FIXED_ROPE_TYPES:
            raise BadModel(f"rope type {rope_type} is not supported: it depends on the batch")
    if getattr(config, "use_bidirectional_attention", False):
        raise BadModel("bidirectional attention is not supported")
    if raw.get("quantization_config") is not None:
        raise BadModel("a checkpoint already quantized (quantization_config) is not supported")


def _rope_types(parameters: Mapping[str, Any]) -> Iterator[str]:
    """Rope types named by a configuration, which nests them by layer type in some families."""
    if "rope_type" in parameters:
        yield str(parameters["rope_type"])
        return
    for nested in parameters.values():
        if nested is not None:
            yield from _rope_types(nested)
