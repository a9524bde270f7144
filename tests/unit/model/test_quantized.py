"""int8 and int4 bundles through quanto: small, complete, close, and the same on every load."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from optimum.quanto.tensor.packed import PackedTensor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.errors import BadModel
from shared.model import SpanModel, load_bundle, write_bundles
from shared.model.checkpoint import read_header
from shared.model.quantized import quantize_layer, unpack
from tests.support.tiny_models import NAMES, checkpoint, feed, prompt, whole

SPLIT, EDGE_DEPTH = 2, 4
# The tiny models' weights are spread far wider than trained ones; four bits are few for them.
LIMITS = {"int8": 0.1, "int4": 1.1}


def cut(name: str, out: Path, kind: str) -> Path:
    write_bundles(
        checkpoint(name),
        out,
        split=SPLIT,
        edge_depth=EDGE_DEPTH,
        edge_format=kind,
        cloud_format="bf16",
        protocol_version=1,
    )
    return out / "edge"


def states(model: SpanModel) -> Tensor:
    with model.new_cache() as kv:
        return feed(model, kv, prompt(16), stop=EDGE_DEPTH).float()


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("name", NAMES)
def test_quantized_bundles_load_on_a_cpu_and_compute_nearly_the_same(
    name: str, kind: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = cut(name, tmp_path, kind)
        first, second = load_bundle(folder), load_bundle(folder)
        outputs = [states(model) for model in (first, second)]
    assert first.dtype == torch.bfloat16
    assert torch.equal(*outputs)
    expected = states(whole(name))
    error = (outputs[0] - expected).norm() / expected.norm()
    assert 0 < float(error) < LIMITS[kind]
    assert first.exit_logits(SPLIT, expected).isfinite().all()


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int4", 4)])
def test_only_the_linear_layers_are_quantized(kind: str, bits: int, tmp_path: Path) -> None:
    folder = cut("qwen3", tmp_path, kind)
    weights = read_header(folder / "layer-0000.safetensors")
    inner = "._data" if bits == 4 else ""
    down = weights[f"model.layers.0.mlp.down_proj.weight._data{inner}"]
    assert down.nbytes == 32 * 48 * bits // 8
    assert weights["model.layers.0.input_layernorm.weight"].dtype == torch.bfloat16
    embedding = read_header(folder / "model.embed_tokens.weight.safetensors")
    assert {tensor.dtype for tensor in embedding.values()} == {torch.bfloat16}
    mapped = json.loads((folder / "quantization.json").read_text())
    assert len(mapped) == 7 * EDGE_DEPTH
    assert {str(kinds) for kinds in mapped.values()} == {
        str({"weights": f"q{kind}", "activations": "none"})
    }


def test_a_linear_layer_whose_inputs_are_no_multiple_of_16_stays_bfloat16() -> None:
    """torch's int8 kernel reads past the end of such rows: it answers with noise, or crashes."""
    layer = nn.Sequential(nn.Linear(56, 32), nn.Linear(32, 56)).to(torch.bfloat16)
    _, mapped = quantize_layer(layer, "int8")
    assert set(mapped) == {"1"}


def test_other_computation_than_bfloat16_is_refused(tmp_path: Path) -> None:
    folder = cut("llama", tmp_path, "int8")
    with pytest.raises(ValueError, match="bfloat16 only"):
        load_bundle(folder, dtype=torch.float32)


@pytest.mark.parametrize("suffix", ["weight._data", "weight._scale", "input_scale"])
def test_a_quantized_bundle_that_lacks_a_tensor_is_refused(suffix: str, tmp_path: Path) -> None:
    folder = cut("llama", tmp_path, "int8")
    path = folder / "layer-0001.safetensors"
    tensors = load_file(path)
    name = f"model.layers.1.mlp.up_proj.{suffix}"
    del tensors[name]
    save_file(tensors, path)
    with pytest.raises(BadModel, match=f"no tensor {name}"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("int8", "_data"),
        ("int8", "_scale"),
        ("int4", "_data._data"),
        ("int4", "_scale"),
        ("int4", "_shift"),
    ],
)
def test_a_quantized_tensor_of_another_size_is_refused(
    kind: str, part: str, tmp_path: Path
) -> None:
    folder = cut("llama", tmp_path, kind)
    path = folder / "layer-0001.safetensors"
    tensors = load_file(path)
    name = f"model.layers.1.mlp.up_proj.weight.{part}"
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, path)
    with pytest.raises(BadModel, match=f"{name} has shape"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.layers.0.mlp.up_proj": {"weights": "qint2", "activations": "none"}},
        {"model.layers.0.mlp.no_proj": {"weights": "qint8", "activations": "none"}},
    ],
)
def test_a_quantization_map_that_does_not_fit_is_refused(
    changes: dict[str, object], tmp_path: Path
) -> None:
    folder = cut("llama", tmp_path, "int8")
    path = folder / "quantization.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(BadModel, match="quantization map does not fit"):
        load_bundle(folder)


def test_nothing_is_compiled_to_load_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """quanto would: into its own folder, with whatever compiler it finds."""

    def compile_it(**_: object) -> None:
        raise OSError("no compiler, and the file system is read-only")

    monkeypatch.setattr("optimum.quanto.library.extensions.extension.load", compile_it)
    for kind in ("int8", "int4"):
        assert states(load_bundle(cut("llama", tmp_path / kind, kind))).isfinite().all()


def test_nibbles_are_taken_apart_as_quanto_does() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(32, 8)
    low, high = unpack(every, 4).chunk(2)
    assert torch.equal(low + 16 * high, every)
    assert torch.equal(PackedTensor.pack(unpack(every, 4), 4)._data, every)
