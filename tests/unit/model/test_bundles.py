"""Bundles: what each side gets, that it is all of it, and that it computes the same."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.errors import BadModel
from shared.model import LayerSpan, Manifest, SpanModel, load_bundle, load_span, write_bundles
from shared.model.checkpoint import read_checkpoint, read_header
from tests.support.tiny_models import (
    DEPTH,
    NAMES,
    checkpoint,
    feed,
    prompt,
    whole,
    write_checkpoint,
)

SPLIT, EDGE_DEPTH = 2, 3
UNTIED = "llama"
TIED = "qwen3"


def cut(
    name: str | Path,
    out: Path,
    *,
    edge: str = "fp32",
    cloud: str = "fp32",
    cloud_start: int = 0,
    split: int = SPLIT,
) -> tuple[Manifest, Manifest]:
    return write_bundles(
        checkpoint(name) if isinstance(name, str) else name,
        out,
        split=split,
        edge_depth=EDGE_DEPTH,
        edge_format=edge,
        cloud_format=cloud,
        cloud_start=cloud_start,
        protocol_version=7,
    )


def held(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor of a bundle."""
    files = folder.glob("*.safetensors")
    return {name: t.shape for file in files for name, t in read_header(file).items()}


def of_layers(name: str, start: int, stop: int) -> set[str]:
    prefixes = tuple(f"model.layers.{n}." for n in range(start, stop))
    return {tensor for tensor in read_checkpoint(checkpoint(name)) if tensor.startswith(prefixes)}


def answers(edge: SpanModel, cloud: SpanModel) -> list[Tensor]:
    """Logits of both exits and of the end for one prompt."""
    with edge.new_cache() as below, cloud.new_cache() as above:
        states = feed(edge, below, prompt(20), stop=SPLIT)
        deeper = feed(edge, below, states, start=SPLIT, stop=EDGE_DEPTH)
        end = feed(cloud, above, states, start=SPLIT)
    return [edge.exit_logits(2, states), edge.exit_logits(3, deeper), cloud.logits(end)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cloud_start", [0, 1, SPLIT])
def test_a_bundle_holds_its_own_tensors_and_no_other(
    name: str, cloud_start: int, tmp_path: Path
) -> None:
    cut(name, tmp_path, cloud_start=cloud_start)
    tied = whole(name).network.tied
    embedding, head = {"model.embed_tokens.weight"}, {"lm_head.weight"}
    unembedding = embedding if tied else head
    exits = {"exits.2.norm.weight", "exits.3.norm.weight"}
    assert set(held(tmp_path / "edge")) == (
        of_layers(name, 0, EDGE_DEPTH) | embedding | unembedding | exits
    )
    assert set(held(tmp_path / "cloud")) == (
        of_layers(name, cloud_start, DEPTH)
        | {"model.norm.weight"}
        | unembedding
        | (embedding if cloud_start == 0 else set())
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cloud_start", [0, SPLIT])
def test_bundles_compute_as_checkpoints_do(name: str, cloud_start: int, tmp_path: Path) -> None:
    cut(name, tmp_path, cloud_start=cloud_start)
    model = whole(name, exits=(2, 3))
    for packed, allowed in ((False, 0.0), (True, 1e-5)):
        sides = [load_bundle(tmp_path / side, packed=packed) for side in ("edge", "cloud")]
        for one, other in zip(answers(*sides), answers(model, model), strict=True):
            torch.testing.assert_close(one, other, rtol=allowed, atol=allowed)


def test_manifests_say_what_the_bundles_are(tmp_path: Path) -> None:
    edge, cloud = cut(UNTIED, tmp_path, edge="bf16", cloud_start=1)
    assert Manifest.read(tmp_path / "edge") == edge == load_bundle(tmp_path / "edge").manifest
    assert Manifest.read(tmp_path / "cloud") == cloud
    assert (edge.role, edge.span, edge.split, edge.edge_depth) == (
        "edge",
        LayerSpan(0, EDGE_DEPTH, DEPTH),
        SPLIT,
        EDGE_DEPTH,
    )
    assert (cloud.role, cloud.span, cloud.split) == ("cloud", LayerSpan(1, DEPTH, DEPTH), None)
    assert (edge.compute_format, cloud.compute_format) == ("bf16", "fp32")
    assert edge.fingerprint == cloud.fingerprint
    assert [e.layer for e in edge.exits] == [SPLIT, EDGE_DEPTH]
    raw = json.loads((tmp_path / "edge" / "manifest.json").read_text())
    assert (raw["format"], raw["span"], raw["depth"]) == (1, [0, EDGE_DEPTH], DEPTH)
    assert raw["exits"][0] == {
        "layer": SPLIT,
        "threshold": 0.8,
        "agreement": None,
        "calibration": {},
    }


def test_one_exit_where_split_and_edge_depth_are_the_same_layer(tmp_path: Path) -> None:
    edge, _ = cut(UNTIED, tmp_path, split=EDGE_DEPTH)
    assert [e.layer for e in edge.exits] == [EDGE_DEPTH]


def test_a_bundle_is_as_large_as_its_tensors(tmp_path: Path) -> None:
    cut(UNTIED, tmp_path, edge="bf16")
    for side, width in (("edge", 2), ("cloud", 4)):
        files = list((tmp_path / side).glob("*.safetensors"))
        values = sum(torch.Size(shape).numel() for shape in held(tmp_path / side).values())
        headers = sum(8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files)
        assert sum(file.stat().st_size for file in files) == values * width + headers


def test_weights_already_narrower_than_the_format_are_not_widened_on_disk(tmp_path: Path) -> None:
    source = write_checkpoint(UNTIED, tmp_path / "source", dtype=torch.bfloat16)
    cut(source, tmp_path)
    stored = read_header(tmp_path / "edge" / "layer-0000.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert load_bundle(tmp_path / "edge").dtype == torch.float32


def test_a_bundle_brings_the_tokenizer_along(tmp_path: Path) -> None:
    source = write_checkpoint(UNTIED, tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    (source / "training.json").write_text("{}")
    cut(source, tmp_path)
    for side in ("edge", "cloud"):
        names = {file.name for file in (tmp_path / side).iterdir()}
        assert {"tokenizer.json", "config.json", "manifest.json"} <= names
        assert "training.json" not in names


def test_writing_again_leaves_nothing_of_the_earlier_bundle(tmp_path: Path) -> None:
    cut(UNTIED, tmp_path, edge="int8")
    cut(TIED, tmp_path)
    assert not (tmp_path / "edge" / "quantization.json").exists()
    load_bundle(tmp_path / "edge")


def test_float64_can_be_asked_of_any_unquantized_bundle(tmp_path: Path) -> None:
    cut(TIED, tmp_path, edge="bf16")
    model = load_bundle(tmp_path / "edge", dtype=torch.float64)
    assert model.dtype == torch.float64
    assert model.exit_logits(2, torch.zeros(1, 32)).dtype == torch.float64


@pytest.mark.parametrize(
    ("split", "cloud_start", "kind", "match"),
    [
        (0, 0, "fp32", "no such cut"),
        (EDGE_DEPTH + 1, 0, "fp32", "no such cut"),
        (SPLIT, SPLIT + 1, "fp32", "gap"),
        (SPLIT, 0, "int3", "int3"),
    ],
)
def test_cuts_that_cannot_be_are_refused(
    split: int, cloud_start: int, kind: str, match: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=match):
        cut(UNTIED, tmp_path, split=split, cloud_start=cloud_start, edge=kind)


Damage = Callable[[Path], object]


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "layer-0001.safetensors")
    change(tensors)
    save_file(tensors, folder / "layer-0001.safetensors")


def rename(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(folder: Path) -> None:
    path = folder / "layer-0002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


NORM = "model.layers.1.input_layernorm.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a missing file": (lambda f: (f / "layer-0001.safetensors").unlink(), "no tensor"),
    "a missing tensor": (lambda f: rewrite(f, lambda t: t.pop(NORM)), f"no tensor {NORM}"),
    "a stray tensor": (
        lambda f: rewrite(f, lambda t: t.update(stray=torch.zeros(1))),
        "unknown tensor stray",
    ),
    "a wrong shape": (lambda f: rewrite(f, lambda t: t.update({NORM: torch.ones(3)})), NORM),
    "a tensor twice": (
        lambda f: save_file({NORM: torch.ones(32)}, f / "z.safetensors"),
        "another file",
    ),
    "a truncated file": (truncate, "truncated"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "config"),
    "an unknown format": (lambda f: rename(f, format=2), "format 2"),
    "an unknown role": (lambda f: rename(f, role="fog"), "fog"),
    "an impossible span": (lambda f: rename(f, span=[3, 3]), "is no span"),
    "another architecture": (lambda f: rename(f, architecture="Qwen2ForCausalLM"), "different"),
    "an exit out of reach": (
        lambda f: rename(f, exits=[{"layer": 5, "threshold": 0.5, "agreement": None}]),
        "contradicts",
    ),
    "an exit without weights": (
        lambda f: rename(f, exits=[{"layer": 1, "threshold": 0.5, "agreement": None}]),
        "exits",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused(damage: str, tmp_path: Path) -> None:
    cut(UNTIED, tmp_path)
    load_bundle(tmp_path / "edge")
    apply, match = DAMAGES[damage]
    apply(tmp_path / "edge")
    with pytest.raises(BadModel, match=match):
        load_bundle(tmp_path / "edge")


def test_exits_trained_on_another_model_are_refused(tmp_path: Path) -> None:
    source = write_checkpoint(UNTIED, tmp_path / "source")
    save_file({"exits.2.norm.weight": torch.ones(32)}, source / "exits.safetensors")
    content = {"format": 1, "exits": [{"layer": 2, "threshold": 0.5, "agreement": 0.9}]}

    def trained_on(fingerprint: str | None) -> None:
        written = json.dumps({**content, "model_fingerprint": fingerprint})
        (source / "exits.json").write_text(written)

    trained_on(None)
    edge, _ = cut(source, tmp_path)
    trained_on(edge.fingerprint)
    edge, _ = cut(source, tmp_path)
    assert (edge.exits[0].threshold, edge.exits[0].agreement) == (0.5, 0.9)
    trained_on("0" * 64)
    with pytest.raises(BadModel, match="another model"):
        cut(source, tmp_path)


def test_progress_names_each_stage_and_counts_to_its_end(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    write_bundles(
        checkpoint(UNTIED),
        tmp_path,
        split=SPLIT,
        edge_depth=EDGE_DEPTH,
        edge_format="fp32",
        cloud_format="fp32",
        protocol_version=1,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    for stage in ("fingerprint", "edge", "cloud"):
        counts = [(done, total) for what, done, total in seen if what == stage]
        total = counts[0][1]
        assert counts == [(done, total) for done in range(1, total + 1)]


def test_a_bundle_is_its_span_of_the_checkpoint(tmp_path: Path) -> None:
    cut(TIED, tmp_path)
    bundle = load_bundle(tmp_path / "edge", packed=False).network.state_dict()
    span = load_span(
        checkpoint(TIED),
        LayerSpan(0, EDGE_DEPTH, DEPTH),
        dtype=torch.float32,
        embedding=True,
        head=False,
        exits=(SPLIT, EDGE_DEPTH),
    ).network.state_dict()
    assert bundle.keys() == span.keys()
    assert all(torch.equal(bundle[name], span[name]) for name in span)
