"""The models an engine is measured on: the shipped one, and a random Llama of 200 M parameters.

Random weights compute as long as trained ones, and a checkpoint of them needs no download. It has
the shipped model's tokenizer, so that it can be served.
"""

import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cli.partition import SHIPPED_MODEL
from shared.model import SpanModel, load_bundle, write_bundles
from shared.protocol.version import PROTOCOL_VERSION

FORMATS = ("fp32", "bf16", "int8", "int4")


def random_llama(folder: Path) -> Path:
    """Write a checkpoint of a Llama with 200 M random parameters in float32; returns its folder."""
    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=15,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=4096,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in SHIPPED_MODEL.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def whole_model(checkpoint: Path, folder: Path, compute_format: str) -> SpanModel:
    """All layers of a checkpoint in a format, as the cloud loads them."""
    write_bundles(
        checkpoint,
        folder / compute_format,
        split=1,
        edge_depth=1,
        edge_format=compute_format,
        cloud_format=compute_format,
        protocol_version=PROTOCOL_VERSION,
    )
    return load_bundle(folder / compute_format / "cloud")
