"""Exits beside a checkpoint: trained ones, untrained ones, and files that are wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from shared.errors import BadModel
from shared.model import ExitInfo, LayerSpan, SpanModel, load_span
from tests.support.tiny_models import DEPTH, feed, prompt, write_checkpoint

HIDDEN = 32
RANK = 3


def put_exits(folder: Path, tensors: dict[str, Tensor], *layers: int) -> None:
    save_file({name: t.clone() for name, t in tensors.items()}, folder / "exits.safetensors")
    listed = [{"layer": n, "threshold": n / 10, "agreement": None} for n in layers]
    content = {"format": 1, "model_fingerprint": None, "exits": listed}
    (folder / "exits.json").write_text(json.dumps(content))


def load(folder: Path, *exits: int) -> SpanModel:
    span = LayerSpan(0, 4, DEPTH)
    return load_span(folder, span, dtype=torch.float32, embedding=True, head=False, exits=exits)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint("llama", tmp_path)


def random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


def normed(hidden: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(hidden, (HIDDEN,), weight, eps=1e-6)


def test_an_exit_is_its_translator_its_norm_and_the_shared_unembedding(folder: Path) -> None:
    norm, down, up = random(HIDDEN), random(RANK, HIDDEN), random(HIDDEN, RANK)
    weight, bias = random(HIDDEN, HIDDEN), random(HIDDEN)
    tensors = {
        "exits.1.norm.weight": norm,
        "exits.2.norm.weight": norm,
        "exits.2.translator.down.weight": down,
        "exits.2.translator.up.weight": up,
        "exits.4.norm.weight": norm,
        "exits.4.translator.weight": weight,
        "exits.4.translator.bias": bias,
    }
    put_exits(folder, tensors, 1, 2, 4)
    model = load(folder, 1, 2, 4)
    assert model.network.lm_head is not None
    head = model.network.lm_head.weight
    hidden = random(7, HIDDEN)
    expected = {
        1: hidden,
        2: hidden + hidden @ down.T @ up.T,
        4: hidden @ weight.T + bias,
    }
    for layer, translated in expected.items():
        logits = model.exit_logits(layer, hidden)
        torch.testing.assert_close(logits, normed(translated, norm) @ head.T, rtol=1e-4, atol=1e-4)
    assert model.exits == {n: ExitInfo(n / 10, None) for n in (1, 2, 4)}


def test_only_the_exits_asked_for_are_held(folder: Path) -> None:
    tensors = {f"exits.{n}.norm.weight": random(HIDDEN) for n in (1, 2)}
    put_exits(folder, tensors, 1, 2)
    model = load(folder, 2)
    assert list(model.exits) == [2]
    assert "exits.1.norm.weight" not in model.network.expected()
    with pytest.raises(ValueError, match="no exit in front of layer 1"):
        model.exit_logits(1, random(1, HIDDEN))


def test_an_exit_nobody_trained_is_a_logit_lens_with_the_papers_threshold(folder: Path) -> None:
    put_exits(folder, {"exits.2.norm.weight": random(HIDDEN)}, 2)
    model = load(folder, 2, 3)
    assert model.exits[3] == ExitInfo(threshold=0.8, agreement=None)
    whole = load_span(
        folder, LayerSpan(0, DEPTH, DEPTH), dtype=torch.float32, embedding=True, head=True
    )
    states = feed(model, model.new_cache(), prompt(6), stop=3)
    torch.testing.assert_close(model.exit_logits(3, states), whole.logits(states))


@pytest.mark.parametrize(
    ("names", "layers", "match"),
    [
        (["exits.1.norm.weight"], [1, 2], r"lacks exits\.2\.norm\.weight"),
        (
            ["exits.1.norm.weight", "exits.3.norm.weight"],
            [1],
            r"holds unknown exits\.3\.norm\.weight",
        ),
        (["exits.1.norm.weight", "stray"], [1], "holds unknown stray"),
        (["exits.1.norm.weight", "exits.1.norm.bias"], [1], r"exits\.1\.norm\.bias"),
        (
            ["exits.1.norm.weight", "exits.1.translator.up.weight"],
            [1],
            r"lacks exits\.1\.translator\.down",
        ),
    ],
)
def test_exit_tensors_are_accounted_for(
    folder: Path, names: list[str], layers: list[int], match: str
) -> None:
    put_exits(folder, {name: random(HIDDEN) for name in names}, *layers)
    with pytest.raises(BadModel, match=match):
        load(folder, 1)


def test_an_exit_with_two_translators_is_refused(folder: Path) -> None:
    parts = ("norm.weight", *(f"translator.{n}.weight" for n in ("down", "up")))
    named = (*parts, "translator.weight", "translator.bias")
    put_exits(folder, {f"exits.1.{name}": random(HIDDEN) for name in named}, 1)
    with pytest.raises(BadModel, match="two translators of exit 1"):
        load(folder, 1)


def test_exits_of_another_form_are_refused(folder: Path) -> None:
    put_exits(folder, {"exits.1.norm.weight": random(HIDDEN)}, 1)
    index = folder / "exits.json"
    good = json.loads(index.read_text())
    for content in ({**good, "format": 2}, {**good, "exits": [{"layer": 1}]}, {**good, "exits": 3}):
        index.write_text(json.dumps(content))
        with pytest.raises(BadModel, match=r"exits\.json"):
            load(folder, 1)
    index.unlink()
    with pytest.raises(BadModel, match=r"exits\.json cannot be read"):
        load(folder, 1)


def test_a_norm_of_the_wrong_width_is_refused(folder: Path) -> None:
    put_exits(folder, {"exits.1.norm.weight": random(HIDDEN + 1)}, 1)
    with pytest.raises(BadModel, match=r"exits\.1\.norm\.weight has shape"):
        load(folder, 1)
