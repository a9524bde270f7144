"""A drafter: what is trained, what stays as it was, and what is written and served of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from shared.errors import BadModel
from shared.model import LayerSpan, Manifest, load_bundle, load_span, write_bundles
from shared.model.checkpoint import read_checkpoint, read_header
from shared.model.exits import read_drafter
from shared.model.fingerprint import fingerprint
from shared.model.network import TranslatorShape
from tests.support.tiny_models import DEPTH, NAMES, checkpoint, feed, prompt
from tests.unit.training.conftest import write_text
from training.heads.distillation import Recipe
from training.heads.drafter import Drafter
from training.heads.drafting import DrafterPlan, train_drafter

SPLIT, EDGE_DEPTH = 1, 2
PLAN = DrafterPlan(
    split=SPLIT,
    edge_depth=EDGE_DEPTH,
    minutes=None,
    steps=12,
    own_tokens=200,
    prompts=3,
    tokens=12,
    recipe=Recipe(precision="fp32"),
)


@pytest.fixture(scope="session")
def drafted_once(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint with a drafter beside it; not to be changed."""
    base = tmp_path_factory.mktemp("drafted")
    folder = Path(shutil.copytree(trained_once, base / "model"))
    train_drafter(folder, [write_text(base / "text")], PLAN)
    return folder


@pytest.fixture
def drafted(drafted_once: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(drafted_once, tmp_path / "drafted"))


def cut(folder: Path, out: Path, *, weights: str = "fp32", use_drafter: bool = True) -> Manifest:
    """The edge's manifest."""
    return write_bundles(
        folder,
        out,
        split=SPLIT,
        edge_depth=EDGE_DEPTH,
        edge_format=weights,
        cloud_format="fp32",
        protocol_version=7,
        use_drafter=use_drafter,
    )[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", [2, 3])
def test_before_training_a_drafter_says_what_the_exit_says(name: str, split: int) -> None:
    folder, ids = checkpoint(name), prompt(20)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    edge = load_span(
        folder, LayerSpan(0, 3, DEPTH), dtype=torch.float32, embedding=True, head=False, exits=(3,)
    )
    below = whole.model(ids[None], use_cache=False, output_hidden_states=True).hidden_states[split]
    with edge.new_cache() as cache:
        expected = edge.exit_logits(3, feed(edge, cache, ids))
    for shape in (TranslatorShape(), TranslatorShape(rank=2), TranslatorShape(affine=True)):
        logits = Drafter(whole, edge, split, shape)(below)[0]  # no translator has an effect yet
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=2e-5)


def test_only_what_is_above_the_split_is_trained(drafted: Path) -> None:
    original = read_checkpoint(drafted)
    drafter = read_drafter(drafted, SPLIT, EDGE_DEPTH)
    assert drafter is not None
    layers = {name for name in original if name.startswith(f"model.layers.{SPLIT}.")}
    assert drafter.tensors.keys() == {*layers, f"exits.{EDGE_DEPTH}.norm.weight"}
    moved = [
        name
        for name in layers
        if not torch.equal(original[name].read(), drafter.tensors[name].read())
    ]
    assert len(moved) == len(layers)


def test_training_changes_no_file_of_the_checkpoint(trained_once: Path, drafted: Path) -> None:
    for path in trained_once.iterdir():
        assert (drafted / path.name).read_bytes() == path.read_bytes()
    assert fingerprint(drafted, read_checkpoint(drafted)) == fingerprint(
        trained_once, read_checkpoint(trained_once)
    )


def test_teaching_brings_the_edge_nearer_to_the_whole_model(
    trained: Path, text: Path, tmp_path: Path
) -> None:
    norms = load_file(trained / "exits.safetensors")
    norms["exits.2.norm.weight"] = torch.randn(32, generator=torch.Generator().manual_seed(0))
    save_file(norms, trained / "exits.safetensors")
    few = train_drafter(trained, [text], replace(PLAN, steps=0), out=tmp_path / "out")
    acceptance = few["acceptance"]
    assert acceptance["after"] == pytest.approx(acceptance["before"], abs=0.05)
    assert not (trained / "drafter-1-2.json").exists()
    plan = replace(PLAN, steps=60, recipe=replace(PLAN.recipe, adam_rate=0.05))
    many = train_drafter(trained, [text], plan)["acceptance"]
    for kind, before in many["before"].items():
        assert many["after"][kind] > before + 0.1
    assert many["before"] == acceptance["before"]


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4"])
def test_a_bundle_with_a_drafter_has_the_same_trunk(
    drafted: Path, weights: str, tmp_path: Path
) -> None:
    with_it = cut(drafted, tmp_path / "with", weights=weights)
    without = cut(drafted, tmp_path / "without", weights=weights, use_drafter=False)
    assert with_it.fingerprint == without.fingerprint
    assert without.drafter is None
    assert with_it.drafter is not None
    assert Manifest.read(tmp_path / "with" / "edge") == with_it
    ids = prompt(20)
    states = {}
    for name in ("with", "without"):
        edge = load_bundle(tmp_path / name / "edge")
        with edge.new_cache() as cache:
            low = feed(edge, cache, ids, stop=SPLIT)
            deep = feed(edge, cache, low, start=SPLIT)
        states[name] = low, edge.exit_logits(SPLIT, low), edge.exit_logits(EDGE_DEPTH, deep)
    assert torch.equal(states["with"][0], states["without"][0])
    assert torch.equal(states["with"][1], states["without"][1])
    assert not torch.allclose(states["with"][2], states["without"][2], atol=1e-3)


def test_the_cloud_never_gets_a_drafter(drafted: Path, tmp_path: Path) -> None:
    cut(drafted, tmp_path / "with")
    cut(drafted, tmp_path / "without", use_drafter=False)
    for path in (tmp_path / "without" / "cloud").iterdir():
        assert (tmp_path / "with" / "cloud" / path.name).read_bytes() == path.read_bytes()


def test_a_bundle_has_the_thresholds_and_gaps_measured_with_its_drafter(
    drafted: Path, tmp_path: Path
) -> None:
    path = drafted / "drafter-1-2.json"
    content = json.loads(path.read_text())
    for place, an_exit in enumerate(content["exits"]):
        an_exit["threshold"] = 0.25 + place / 8
    path.write_text(json.dumps(content))
    edge = load_bundle(tmp_path / "edge") if cut(drafted, tmp_path) else None
    assert edge is not None
    assert {layer: info.threshold for layer, info in edge.exits.items()} == {1: 0.25, 2: 0.375}
    table = edge.exits[EDGE_DEPTH].calibration["greedy"]
    stored = content["exits"][1]["calibration"]["greedy"]
    assert [list(row) for row in table.ranks] == stored["ranks"]
    assert table.chances(0.0) == table.ranks[0]
    assert table.chances(float("inf")) == table.ranks[-1]
    assert table.chances(table.gaps[0]) == table.ranks[1]


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        (TranslatorShape(rank=3), {"down.weight", "up.weight"}),
        (TranslatorShape(affine=True), {"weight", "bias"}),
    ],
)
def test_a_head_alone_can_be_taught(
    trained: Path, text: Path, tmp_path: Path, shape: TranslatorShape, parts: set[str]
) -> None:
    plan = replace(PLAN, split=2, recipe=replace(PLAN.recipe, translator=shape))
    train_drafter(trained, [text], plan)
    named = {f"exits.2.translator.{part}" for part in parts}
    tensors = read_header(trained / "drafter-2-2.safetensors")
    assert tensors.keys() == {"exits.2.norm.weight", *named}
    write_bundles(
        trained,
        tmp_path,
        split=2,
        edge_depth=2,
        edge_format="fp32",
        cloud_format="fp32",
        protocol_version=7,
    )
    assert load_bundle(tmp_path / "edge").exits.keys() == {2}


def test_another_cut_has_no_drafter(drafted: Path) -> None:
    assert read_drafter(drafted, 1, 1) is None
    assert read_drafter(drafted, 2, 2) is None


def test_a_drafter_of_another_model_is_refused(drafted: Path, tmp_path: Path) -> None:
    path = drafted / "drafter-1-2.json"
    content = json.loads(path.read_text())
    content["model_fingerprint"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(BadModel, match=r"drafter 1-2 .* another model"):
        cut(drafted, tmp_path)
    assert cut(drafted, tmp_path, use_drafter=False).drafter is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format"),
        ({"split": 2}, "another cut"),
        ({"exits": []}, "names the exits"),
        ({"acceptance": {}}, "accepted"),
    ],
)
def test_a_broken_index_is_refused(drafted: Path, change: dict[str, object], says: str) -> None:
    path = drafted / "drafter-1-2.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BadModel, match=says):
        read_drafter(drafted, SPLIT, EDGE_DEPTH)


def test_half_a_drafter_is_refused(drafted: Path, tmp_path: Path) -> None:
    (drafted / "drafter-1-2.safetensors").unlink()
    with pytest.raises(BadModel):
        cut(drafted, tmp_path)


@pytest.mark.parametrize("wrong", ["lacks", "holds", "has shape"])
def test_tensors_that_are_not_those_replaced_are_refused(
    drafted: Path, wrong: str, tmp_path: Path
) -> None:
    path = drafted / "drafter-1-2.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensor = tensors[name].clone()
    if wrong == "lacks":
        del tensors[name]
    elif wrong == "holds":
        tensors[name.replace("layers.1", "layers.0")] = tensor
    else:
        tensors[name] = tensor[:, 1:].contiguous()
    save_file(tensors, path)
    with pytest.raises(BadModel, match=wrong):
        cut(drafted, tmp_path)


@pytest.mark.parametrize(("split", "edge_depth"), [(0, 2), (3, 2), (2, 4)])
def test_a_cut_that_cannot_be_made_is_refused(
    trained: Path, text: Path, split: int, edge_depth: int
) -> None:
    with pytest.raises(ValueError, match="no such cut"):
        train_drafter(trained, [text], replace(PLAN, split=split, edge_depth=edge_depth))


def test_without_text_nothing_is_trained(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="file in"):
        train_drafter(trained, [tmp_path / "nowhere"], PLAN)
