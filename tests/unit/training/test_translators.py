"""Translators: what they start as, what moves when they are taught, and what is served of them."""

import hashlib
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared.model import LayerSpan, load_bundle, load_span, write_bundles
from shared.model.exits import UNTUNED_THRESHOLD, WEIGHTS
from shared.model.network import TranslatorShape
from tests.support.tiny_models import DEPTH, NAMES, checkpoint, feed, prompt, whole
from training.exits import ExitPoint, write_exits
from training.heads import translators as translators_module
from training.heads.translating import Lessons, Pace, Taught, teach
from training.heads.translators import States, Translators

LAYERS = (2, 3)
AFFINE, LOW_RANK = TranslatorShape(affine=True), TranslatorShape(rank=8)
# Steps that suit models of a few dozen units.
PACE = Pace(matrix_rate=1.0, norm_rate=0.02)


def texts(count: int, *, seed: int = 0) -> torch.Tensor:
    return torch.stack([prompt(24, seed=seed + n) for n in range(count)])


def taught(
    exits: Translators, *, steps: int = 24, memory: int = 1 << 30, dtype: torch.dtype | None = None
) -> tuple[Taught, list[States]]:
    """Teach for some steps; returns the run and what it was judged on, which it never learned."""
    judged = [exits.read(list(texts(8, seed=1000))), exits.read(list(texts(8, seed=2000)))]
    run = teach(
        exits,
        Lessons(exits, texts(48), memory=memory),
        judged,
        pace=PACE,
        budget=lambda done, _seconds: done / steps,
        dtype=dtype or torch.float32,
        seed=0,
        report=lambda _step, _share, _found: None,
    )
    return run, judged


def digests(folder: Path) -> dict[str, str]:
    """What the files of a folder hold."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.mark.parametrize("shape", [TranslatorShape(), AFFINE, LOW_RANK])
def test_untaught_exits_are_a_logit_lens(shape: TranslatorShape) -> None:
    model = whole("gemma2", exits=LAYERS)  # exits that nobody trained
    exits = Translators(model, LAYERS, shape)
    judged = [exits.read([prompt(20)])]
    own = {layer: model.network.exits[str(layer)] for layer in LAYERS}
    found, lens = exits.measure(judged), exits.measure(judged, own)
    for layer in LAYERS:
        assert found[layer].agreement == lens[layer].agreement
        assert found[layer].divergence == pytest.approx(lens[layer].divergence, abs=1e-5)


def test_states_are_those_the_engine_computes() -> None:
    model = whole("gemma3")
    exits = Translators(model, LAYERS, AFFINE)
    several = [prompt(20), prompt(7, seed=1)]
    states = exits.read(several)
    first = 0
    for ids in several:
        rows = slice(first, first + len(ids))
        with model.new_cache() as cache:
            hidden: torch.Tensor = ids
            for start, stop in pairwise((0, *LAYERS, DEPTH)):
                hidden = feed(model, cache, hidden, start=start, stop=stop)
                if stop < DEPTH:
                    torch.testing.assert_close(states.entering[stop][rows], hidden)
            said = model.unembed(states.end[rows])
            torch.testing.assert_close(said, model.logits(hidden))
        first += len(ids)


@pytest.mark.parametrize("name", NAMES)
def test_teaching_raises_agreement_and_the_bundle_serves_what_was_taught(
    name: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint(name), tmp_path / "model"))
    before = digests(folder)
    span = LayerSpan(0, DEPTH, DEPTH)
    model = load_span(folder, span, dtype=torch.float32, embedding=True, head=True)
    # Both kinds in turn: three families each.
    shape = LOW_RANK if NAMES.index(name) % 2 else AFFINE
    exits = Translators(model, LAYERS, shape)
    frozen = {key: value.clone() for key, value in model.network.state_dict().items()}
    run, judged = taught(exits, steps=48)
    first, last = run.curve[0].exits, run.curve[-1].exits
    # A norm alone gains less than 0.02 in front of layer 2.
    assert last[2].agreement > first[2].agreement + 0.03
    for layer in LAYERS:
        assert last[layer].divergence < 0.8 * first[layer].divergence
    assert last == exits.measure(judged)

    save_file(exits.tensors(torch.float32), folder / WEIGHTS)
    write_exits(folder, [ExitPoint(layer, UNTUNED_THRESHOLD, None) for layer in LAYERS])
    assert {key: value for key, value in digests(folder).items() if key in before} == before
    assert all(torch.equal(frozen[key], value) for key, value in model.network.state_dict().items())
    cut = {"split": LAYERS[0], "edge_depth": LAYERS[1], "protocol_version": 7}
    formats = {"edge_format": "fp32", "cloud_format": "fp32"}
    write_bundles(folder, tmp_path, **cut, **formats)  # type: ignore[arg-type]
    edge = load_bundle(tmp_path / "edge")
    ids = prompt(20)
    states = exits.read([ids])
    with edge.new_cache() as cache:
        hidden: torch.Tensor = ids
        for start, stop in pairwise((0, *LAYERS)):
            hidden = feed(edge, cache, hidden, start=start, stop=stop)
            with torch.no_grad():
                expected = model.unembed(exits.heads[str(stop)](states.entering[stop]))
            torch.testing.assert_close(edge.exit_logits(stop, hidden), expected)


def test_gradients_are_those_of_the_mean_divergence_however_it_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exits = Translators(whole("gemma2"), LAYERS, AFFINE)
    states = exits.read([prompt(20)])
    said = exits.model.unembed(states.end).log_softmax(dim=-1)
    for layer in LAYERS:
        logits = exits.model.unembed(exits.heads[str(layer)](states.entering[layer]))
        apart = (said.exp() * (said - logits.log_softmax(dim=-1))).sum(dim=-1)
        apart.mean().backward()
    expected = [parameter.grad for parameter in exits.parameters()]
    monkeypatch.setattr(translators_module, "_ROWS", 7)
    monkeypatch.setattr(translators_module, "_LOGITS", 1)
    exits.zero_grad()
    found = exits.learn(states)
    for parameter, gradient in zip(exits.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    measured = exits.measure([states])
    assert found == pytest.approx({n: measured[n].divergence for n in LAYERS}, abs=1e-6)


def test_states_are_kept_as_far_as_there_is_room() -> None:
    exits = Translators(whole("llama"), LAYERS, LOW_RANK)
    size = Lessons(exits, texts(48)).read(0).nbytes
    for memory, kept in ((0, 0), (size, 1), (2 * size, 2), (2 * size - 1, 1)):
        lessons = Lessons(exits, texts(48), memory=memory)
        assert [lessons.read(n) is lessons.read(n) for n in (0, 1)].count(True) == kept


def test_states_that_are_not_kept_are_computed_again() -> None:
    kept, again = (Translators(whole("qwen3"), LAYERS, LOW_RANK) for _ in range(2))
    taught(kept, steps=9)
    taught(again, steps=9, memory=0)
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_curve_ends_with_what_a_file_will_hold() -> None:
    exits = Translators(whole("qwen3"), LAYERS, AFFINE)
    run, judged = taught(exits, steps=5, dtype=torch.bfloat16)
    for parameter in exits.parameters():
        assert torch.equal(parameter, parameter.bfloat16().float())
    assert run.curve[-1].exits == exits.measure(judged)
    steps = [point.step for point in run.curve]
    assert (steps[0], steps[-1]) == (0, 5)
    assert steps == sorted(set(steps))
    assert [point.tokens for point in run.curve] == [step * 8 * 24 for step in steps]
    assert sum(run.seconds.values()) <= run.curve[-1].seconds + run.seconds["measuring"]


@pytest.mark.parametrize("layer", [0, DEPTH, DEPTH + 1])
def test_an_exit_needs_a_layer_before_and_one_behind(layer: int) -> None:
    with pytest.raises(ValueError, match=f"not {layer}"):
        Translators(whole("llama"), [1, layer], AFFINE)
