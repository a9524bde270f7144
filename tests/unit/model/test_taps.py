"""Taps: what is refused, what a failing one leaves behind, and that a paced model's are as wide."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from benchmarks.paced.model import PacedModel
from benchmarks.paced.prices import Prices
from shared.model import SpanModel, Tap
from shared.model.ragged import stretches
from tests.support.tiny_models import DEPTH, feed, prompt, segment, whole

WIDE = 128


@pytest.fixture
def model() -> SpanModel:
    return whole("llama")


@pytest.mark.parametrize("layer", [-1, 0, 1, 4, 5])
def test_a_tap_outside_the_layers_is_refused(model: SpanModel, layer: int) -> None:
    states = torch.zeros(2, model.shape.hidden)
    given = segment(model.new_cache(), 1, 4, states)
    with pytest.raises(ValueError, match=f"a tap at layer {layer}"):
        model.forward([replace(given, tap=Tap(layer, lambda states: states))])


def test_a_tap_that_returns_another_shape_is_refused_and_leaves_the_cache(
    model: SpanModel,
) -> None:
    kv = model.new_cache()
    feed(model, kv, prompt(3))
    given = replace(segment(kv, 0, DEPTH, prompt(4)), tap=Tap(2, lambda states: states[1:]))
    with pytest.raises(ValueError, match="the tap at layer 2 returned"):
        model.forward([given])
    assert {kv.length(layer) for layer in range(DEPTH)} == {3}


def test_a_tap_may_return_another_dtype(model: SpanModel) -> None:
    given = segment(model.new_cache(), 0, DEPTH, prompt(4))
    (states,) = model.forward([replace(given, tap=Tap(2, lambda states: states.double()))])
    assert states.dtype == torch.float32
    assert torch.equal(states, feed(model, model.new_cache(), prompt(4)))


def test_a_tap_cuts_the_layers_of_all(model: SpanModel) -> None:
    one = segment(model.new_cache(), 0, 4, prompt(2))
    other = segment(model.new_cache(), 0, DEPTH, prompt(3))
    cut = [(s.first, s.last, s.active) for s in stretches([replace(one, tap=Tap(2, abs)), other])]
    assert cut == [(0, 2, (0, 1)), (2, 4, (0, 1)), (4, 5, (1,))]


def test_a_paced_models_tap_sees_and_returns_the_paced_width(model: SpanModel) -> None:
    free = Prices(step=0.0, layer=0.0, head=0.0, row=0.0, depth=DEPTH)
    paced = cast(SpanModel, PacedModel(model, free, hidden=WIDE))
    taken: list[Tensor] = []

    def take(states: Tensor) -> Tensor:
        taken.append(states)
        return states * 1.5

    given = replace(segment(paced.new_cache(), 0, DEPTH, prompt(4)), tap=Tap(2, take))
    (found,) = paced.forward([given])
    below = feed(model, model.new_cache(), prompt(4), stop=2)
    assert [states.shape for states in taken] == [(4, WIDE)]
    own = model.shape.hidden
    assert torch.equal(taken[0][:, :own], below)
    assert not taken[0][:, own:].any()
    with model.new_cache() as kv:
        expected = feed(model, kv, below * 1.5, start=2)
    torch.testing.assert_close(found[:, :own], expected)


def test_a_tap_does_not_change_a_paced_models_price(
    model: SpanModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[float] = []

    def hold(_: PacedModel, _began: float, price: float, _segments: object = ()) -> bool:
        held.append(price)
        return True

    monkeypatch.setattr(PacedModel, "_hold", hold)
    prices = Prices(step=7.0, layer=1.0, head=3.0, row=0.5, depth=DEPTH)
    paced = cast(SpanModel, PacedModel(model, prices, hidden=WIDE))
    for tap in (None, Tap(2, lambda states: states)):
        rows = [segment(paced.new_cache(), 0, stop, prompt(4)) for stop in (4, DEPTH)]
        paced.forward([replace(rows[0], tap=tap), rows[1]])
    assert held[0] == pytest.approx(held[1])
    assert held[0] == pytest.approx(7 + 4 * (1 + 0.1 * 7) + 1 * (1 + 0.1 * 3))
