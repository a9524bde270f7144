"""Loading a span: every tensor is accounted for, and only the span's own are read."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.errors import BadModel
from shared.model import LayerSpan, SpanModel, load_span
from shared.model.checkpoint import read_checkpoint
from shared.model.families import read_source
from shared.model.loading import open_checkpoint
from shared.model.network import all_names
from tests.support.tiny_models import DEPTH, NAMES, checkpoint, feed, prompt, write_checkpoint

SINGLE = "model.safetensors"
MIB = 1 << 20


def load_all(folder: Path) -> SpanModel:
    span = LayerSpan(0, DEPTH, DEPTH)
    return load_span(folder, span, dtype=torch.float32, embedding=True, head=True)


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a single-file checkpoint."""
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / SINGLE)


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", range(1, DEPTH))
def test_kept_and_skipped_tensors_are_the_checkpoint(name: str, split: int) -> None:
    folder = checkpoint(name)
    lower = load_span(
        folder, LayerSpan(0, split, DEPTH), dtype=torch.float32, embedding=True, head=False
    )
    upper = load_span(
        folder, LayerSpan(split, DEPTH, DEPTH), dtype=torch.float32, embedding=False, head=True
    )
    kept = [set(model.network.expected()) for model in (lower, upper)]
    assert kept[0] | kept[1] == set(read_checkpoint(folder))
    tied = {"model.embed_tokens.weight"} if lower.network.tied else set()
    assert kept[0] & kept[1] == tied


@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_is_left_on_the_meta_device(name: str) -> None:
    network = load_all(checkpoint(name)).network
    for tensor in (*network.parameters(), *network.buffers()):
        assert tensor.device.type == "cpu"
        assert bool(tensor.isfinite().all())


def test_an_unknown_tensor_is_refused_by_name(tmp_path: Path) -> None:
    write_checkpoint("llama", tmp_path)
    rewrite(tmp_path, lambda t: t.update({"model.layers.1.stray.weight": torch.zeros(1)}))
    with pytest.raises(BadModel, match=r"unknown tensor model\.layers\.1\.stray\.weight"):
        load_all(tmp_path)


def test_a_missing_tensor_is_refused_by_name_even_outside_the_span(tmp_path: Path) -> None:
    write_checkpoint("qwen2", tmp_path)
    rewrite(tmp_path, lambda t: t.pop("model.layers.4.self_attn.k_proj.bias"))
    with pytest.raises(BadModel, match=r"no tensor model\.layers\.4\.self_attn\.k_proj\.bias"):
        load_span(tmp_path, LayerSpan(0, 1, DEPTH), dtype=torch.float32, embedding=True, head=False)


def test_a_tensor_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    write_checkpoint("llama", tmp_path)
    rewrite(tmp_path, lambda t: t.update({"model.norm.weight": torch.ones(3)}))
    with pytest.raises(BadModel, match=r"model\.norm\.weight has shape \(3,\), not \(32,\)"):
        load_all(tmp_path)


def test_an_untied_head_may_not_be_absent(tmp_path: Path) -> None:
    write_checkpoint("llama", tmp_path)
    rewrite(tmp_path, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(BadModel, match=r"no tensor lm_head\.weight"):
        load_all(tmp_path)


def test_a_tied_head_may_be_present_if_it_is_the_embedding(tmp_path: Path) -> None:
    write_checkpoint("qwen3", tmp_path)
    rewrite(
        tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    )
    model = load_all(tmp_path)
    embedding, head = model.network.model.embed_tokens, model.network.lm_head
    assert embedding is not None
    assert head is not None
    assert head.weight is embedding.weight
    rewrite(tmp_path, lambda t: t["lm_head.weight"].add_(1))
    with pytest.raises(BadModel, match=r"lm_head\.weight differs"):
        load_all(tmp_path)


def test_shards_load_as_one_file_does(tmp_path: Path) -> None:
    write_checkpoint("gemma3", tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    sharded, single = load_all(tmp_path), load_all(checkpoint("gemma3"))
    outputs = [feed(model, model.new_cache(), prompt(9)) for model in (sharded, single)]
    assert torch.equal(*outputs)


def test_a_shard_that_lacks_a_listed_tensor_is_refused(tmp_path: Path) -> None:
    write_checkpoint("llama", tmp_path, max_shard_size="30KB")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.ghost"] = next(iter(content["weight_map"].values()))
    index.write_text(json.dumps(content))
    with pytest.raises(BadModel, match=r"tensor model\.ghost is only in its index"):
        load_all(tmp_path)


def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    write_checkpoint("llama", tmp_path)
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadModel, match="outside its folder"):
        load_all(tmp_path)


@pytest.mark.parametrize("cut", [3, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int) -> None:
    write_checkpoint("llama", tmp_path)
    data = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(data[:cut])
    with pytest.raises(BadModel, match="truncated"):
        load_all(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02" + bytes(7) + b"[]"])
def test_bytes_that_are_no_safetensors_file_are_refused(tmp_path: Path, content: bytes) -> None:
    write_checkpoint("llama", tmp_path)
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(BadModel):
        load_all(tmp_path)


def test_the_early_llamas_stored_frequencies_are_skipped(tmp_path: Path) -> None:
    write_checkpoint("llama", tmp_path)
    stored = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    rewrite(tmp_path, lambda t: t.update(stored))
    model, clean = load_all(tmp_path), load_all(checkpoint("llama"))
    assert torch.equal(*(feed(m, m.new_cache(), prompt(5)) for m in (model, clean)))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM"),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "Gemma3ForConditionalGeneration"),
        ({"architectures": None}, "None"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "dynamic",
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 64,
                }
            },
            "longrope",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_act": "no_such_function"}, "no_such_function"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    write_checkpoint("llama", tmp_path)
    configure(tmp_path, **changes)
    with pytest.raises(BadModel, match=named):
        load_all(tmp_path)


def test_bidirectional_attention_is_refused(tmp_path: Path) -> None:
    write_checkpoint("gemma3", tmp_path)
    configure(tmp_path, use_bidirectional_attention=True)
    with pytest.raises(BadModel, match="bidirectional"):
        load_all(tmp_path)


def test_a_span_of_another_depth_or_without_what_is_asked_for_is_refused() -> None:
    folder = checkpoint("llama")
    for span, embedding, head, exits, match in (
        (LayerSpan(0, 2, DEPTH + 1), True, False, (), "is not of"),
        (LayerSpan(0, 2, DEPTH), True, True, (), "head"),
        (LayerSpan(1, 2, DEPTH), True, False, (), "embedding"),
        (LayerSpan(1, 3, DEPTH), False, False, (1,), "layer 1"),
        (LayerSpan(1, 3, DEPTH), False, False, (4,), "layer 4"),
    ):
        with pytest.raises(ValueError, match=match):
            load_span(
                folder, span, dtype=torch.float32, embedding=embedding, head=head, exits=exits
            )


PEAK = """
import sys, torch
from pathlib import Path
from shared.model import LayerSpan, load_span

def peak():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

before = peak()
for dtype in (torch.bfloat16, torch.float32):
    model = load_span(
        Path(sys.argv[1]), LayerSpan(0, 1, 8), dtype=dtype, embedding=True, head=False
    )
    print(peak() - before, sum(p.nbytes for p in model.network.parameters()))
    del model
"""


def test_loading_a_span_of_a_large_checkpoint_takes_its_own_tensors_and_no_more(
    large_checkpoint: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(large_checkpoint)],
        capture_output=True,
        text=True,
        check=True,
    )
    total = sum(tensor.nbytes for tensor in read_checkpoint(large_checkpoint).values())
    assert total > 1000 * MIB
    for line in done.stdout.splitlines():
        risen, own = map(int, line.split())
        assert own < total / 2
        assert risen <= own + 150 * MIB


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1 GiB of bfloat16 weights, of which one layer of eight and the embedding are a sixth. The
    file is sparse: what it holds does not matter here, only how much of it is read.
    """
    folder = tmp_path_factory.mktemp("large")
    write_checkpoint("llama", folder)
    configure(
        folder,
        num_hidden_layers=8,
        hidden_size=2048,
        intermediate_size=8192,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=8192,
    )
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in all_names(read_source(folder)).items():
        end = offset + 2 * shape.numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    with (folder / SINGLE).open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + offset)
    open_checkpoint(folder)
    return folder
