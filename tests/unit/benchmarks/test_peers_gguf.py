"""A GGUF file against the checkpoint it was written from, read back by gguf's own reader."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from benchmarks.peers.gguf_file import write_gguf
from cli.partition import SHIPPED_MODEL
from shared.errors import BadModel
from shared.model.checkpoint import read_checkpoint
from tests.support.tiny_models import checkpoint

# What llama.cpp calls the tensors of a layer, and of the rest.
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def theirs(name: str) -> str:
    """llama.cpp's name for a tensor."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{IN_LAYER[rest.removesuffix('.weight')]}.weight"


def unpaired(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Row 2i of a head back to i, row 2i + 1 to i + half."""
    size = len(rows) // heads
    order = [
        head * size + (2 * i if i < size // 2 else 2 * (i - size // 2) + 1)
        for head in range(heads)
        for i in range(size)
    ]
    return rows[order]


def written(folder: Path, path: Path, *, half: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of the file made of `folder`, by llama.cpp's names."""
    write_gguf(folder, path, half=half)
    return {each.name: torch.tensor(each.data) for each in GGUFReader(path).tensors}


def value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None, key
    return field.contents()


@pytest.mark.parametrize("folder", [SHIPPED_MODEL, checkpoint("llama")], ids=["shipped", "tiny"])
def test_every_tensor_comes_back(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }
    found = written(folder, tmp_path / "m.gguf")
    stored = read_checkpoint(folder)
    extra = {"rope_freqs.weight"} if config["rope_parameters"]["rope_type"] == "llama3" else set()
    assert found.keys() == {theirs(name) for name in stored} | extra
    for name, tensor in stored.items():
        rows = found[theirs(name)]
        for projection, count in heads.items():
            rows = unpaired(rows, count) if projection in name else rows
        assert rows.dtype == torch.float32
        assert torch.equal(rows, tensor.read(torch.float32)), name


def test_metadata_says_what_the_configuration_says(tmp_path: Path) -> None:
    write_gguf(SHIPPED_MODEL, tmp_path / "m.gguf")
    reader = GGUFReader(tmp_path / "m.gguf")
    expected = {
        "general.architecture": "llama",
        "general.file_type": 0,
        "llama.block_count": 12,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 688,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 10000.0,
        "llama.context_length": 2048,
        "llama.vocab_size": 4096,
        "tokenizer.ggml.model": "none",
    }
    assert {key: value(reader, key) for key in expected} == expected
    epsilon = value(reader, "llama.attention.layer_norm_rms_epsilon")
    assert epsilon == pytest.approx(1e-6, rel=1e-6)


def test_half_halves_matrices_and_leaves_vectors(tmp_path: Path) -> None:
    whole = written(SHIPPED_MODEL, tmp_path / "whole.gguf")
    half = written(SHIPPED_MODEL, tmp_path / "half.gguf", half=True)
    assert half.keys() == whole.keys()
    for name, tensor in half.items():
        expected = whole[name].half() if whole[name].dim() > 1 else whole[name]
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected), name
    assert value(GGUFReader(tmp_path / "half.gguf"), "general.file_type") == 1


def test_a_tied_head_that_is_stored_all_the_same_is_left_out(tmp_path: Path) -> None:
    folder = changed(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" in read_checkpoint(folder)
    assert "output.weight" not in written(folder, tmp_path / "m.gguf")


def test_scaled_rotations_have_their_factors(tmp_path: Path) -> None:
    """Of the tiny model's four frequencies the fastest stays and the slowest is divided by 4."""
    factors = written(checkpoint("llama"), tmp_path / "m.gguf")["rope_freqs.weight"]
    assert factors.shape == (4,)
    assert factors[0] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "gelu"}, "gelu"),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "linear",
        ),
    ],
)
def test_what_is_not_written_is_refused_by_name(
    changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    with pytest.raises(BadModel, match=named):
        write_gguf(changed(tmp_path, **changes), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"LlamaForCausalLM.*Qwen2ForCausalLM"):
        write_gguf(checkpoint("qwen2"), tmp_path / "m.gguf")


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path) -> None:
    folder = changed(tmp_path)
    path = folder / "model.safetensors"
    stray = {"model.layers.0.self_attn.sinks": torch.zeros(4)}
    save_file({**load_file(path), **stray}, path)
    with pytest.raises(BadModel, match="sinks"):
        write_gguf(folder, tmp_path / "m.gguf")


def changed(tmp_path: Path, **changes: object) -> Path:
    """The tiny Llama with another configuration."""
    folder = tmp_path / "changed"
    shutil.copytree(checkpoint("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder
