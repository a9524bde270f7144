"""A Hugging Face Llama checkpoint as a GGUF file for llama.cpp.

It knows the names, the order of rows and the metadata llama.cpp expects of architecture `llama`.
The file holds no vocabulary: token ids go in and come out. It runs nothing.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy
import torch
from gguf import MODEL_ARCH, GGUFWriter, LlamaFileType, TensorNameMap, get_tensor_name_map
from numpy.typing import NDArray
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from shared.errors import BadModel
from shared.model.checkpoint import StoredTensor, read_checkpoint
from shared.model.families import read_source

Weights: TypeAlias = NDArray[numpy.float32 | numpy.float16]

_ARCHITECTURE = "LlamaForCausalLM"
_ROPE_TYPES = ("default", "llama3")
_ROPE_FACTORS = "rope_freqs.weight"
_PRECOMPUTED = ".rotary_emb.inv_freq"  # old checkpoints store what follows from the configuration
_HEAD = "lm_head.weight"


def write_gguf(checkpoint: Path, path: Path, *, half: bool = False) -> None:
    """Write the checkpoint in folder `checkpoint` to `path`, in float32 or, if `half`, with its
    matrices in float16. One tensor at a time is held in memory.

    Raises:
        BadModel: it is not a Llama, has a feature that is not written here, or cannot be read.
    """
    config = _configuration(checkpoint)
    tensors = _named(read_checkpoint(checkpoint), config)
    writer = GGUFWriter(path, "llama")
    try:
        _describe(writer, config, half=half)
        for name, tensor in tensors.items():
            dtype = _dtype(tensor, half=half)
            size = math.prod(tensor.shape) * dtype.itemsize
            writer.add_tensor_info(name, tensor.shape, dtype, size)
        factors = _rope_factors(config)
        if factors is not None:
            writer.add_tensor_info(_ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors.values():
            writer.write_tensor_data(_weights(tensor, config, half=half))
        if factors is not None:
            writer.write_tensor_data(factors)
    finally:
        writer.close()


def paired(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of a query or key projection as llama.cpp's rotation takes them.

    transformers rotates row i of a head together with row i + half of the head; llama.cpp rotates
    rows 2i and 2i + 1 (its rotation type of architecture `llama`).
    """
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def _configuration(checkpoint: Path) -> PreTrainedConfig:
    source = read_source(checkpoint)
    config = source.config
    if source.architecture != _ARCHITECTURE:
        raise BadModel(f"only {_ARCHITECTURE} is written as GGUF here, not {source.architecture}")
    rope = config.rope_parameters["rope_type"]
    if rope not in _ROPE_TYPES:
        raise BadModel(f"rope type {rope} is not written as GGUF here; {_ROPE_TYPES} are")
    if config.hidden_act != "silu":
        raise BadModel(f"llama.cpp's Llama computes silu, not {config.hidden_act}")
    return config


def _named(stored: Mapping[str, StoredTensor], config: PreTrainedConfig) -> dict[str, StoredTensor]:
    """The tensors to write under the names of llama.cpp."""
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    redundant = {_HEAD} if config.tie_word_embeddings else set()
    return {
        _name(name, names): tensor
        for name, tensor in stored.items()
        if name not in redundant and not name.endswith(_PRECOMPUTED)
    }


def _name(name: str, names: TensorNameMap) -> str:
    found = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise BadModel(f"llama.cpp has no place for tensor {name}")
    return found


def _describe(writer: GGUFWriter, config: PreTrainedConfig, *, half: bool) -> None:
    writer.add_file_type(LlamaFileType.MOSTLY_F16 if half else LlamaFileType.ALL_F32)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("none")


def _weights(tensor: StoredTensor, config: PreTrainedConfig, *, half: bool) -> Weights:
    values = tensor.read(torch.float32)
    if ".q_proj." in tensor.name:
        values = paired(values, config.num_attention_heads)
    elif ".k_proj." in tensor.name:
        values = paired(values, config.num_key_value_heads)
    weights: Weights = values.contiguous().numpy().astype(_dtype(tensor, half=half), copy=False)
    return weights


def _dtype(tensor: StoredTensor, *, half: bool) -> "numpy.dtype[numpy.float32 | numpy.float16]":
    # Vectors (norms, biases) stay in float32: llama.cpp's kernels take them in nothing else.
    return numpy.dtype(numpy.float16 if half and len(tensor.shape) > 1 else numpy.float32)


def _rope_factors(config: PreTrainedConfig) -> NDArray[numpy.float32] | None:
    """What each rotation's frequency is divided by; None where `rope_theta` says all."""
    rope = config.rope_parameters
    if rope["rope_type"] == "default":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"))
    plain = rope["rope_theta"] ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    factors: NDArray[numpy.float32] = (plain / scaled).numpy()
    return factors
