"""Packed weights multiply as plain ones do, or stay plain."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.model import packed
from shared.model.packed import PackedLinear, pack


class Two(nn.Module):
    """A layer within a layer, and a head."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.inner = nn.Sequential(nn.Linear(48, 80, dtype=dtype))
        self.head = nn.Linear(80, 112, bias=False, dtype=dtype)

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.head(self.inner(rows))
        return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 300])
@torch.no_grad()
def test_packed_layers_multiply_as_plain_ones(dtype: torch.dtype, rows: int) -> None:
    plain, network = Two(dtype), Two(dtype)
    assert pack(network, tied_head=None) == 2
    assert isinstance(network.inner[0], PackedLinear)
    assert not list(network.parameters())
    for shape in ((rows, 48), (1, rows, 48)):
        given = torch.randn(shape).to(dtype)
        allowed = packed.ALLOWED[dtype]
        torch.testing.assert_close(network(given), plain(given), rtol=allowed, atol=20 * allowed)


@pytest.mark.parametrize("inputs", [256, 1024, 1040, 2816])
@torch.no_grad()
def test_in_bfloat16_a_row_is_the_same_beside_any_others(inputs: int) -> None:
    torch.manual_seed(1)
    layer = PackedLinear(nn.Linear(inputs, 384, dtype=torch.bfloat16))
    rows = torch.randn(64, inputs, dtype=torch.bfloat16)
    alone = torch.cat([layer(row[None]) for row in rows])
    for count in (2, 3, 8, 17, 64):
        assert torch.equal(layer(rows[:count]), alone[:count])


def test_what_is_no_plain_layer_of_these_formats_stays() -> None:
    assert pack(Two(torch.float64), tied_head=None) == 0
    assert pack(nn.Sequential(nn.LayerNorm(8), nn.Embedding(4, 8)), tied_head=None) == 0


def test_a_large_tied_head_is_not_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Two()
    monkeypatch.setattr(packed, "MOST_TWICE_BYTES", network.head.weight.nbytes - 1)
    assert pack(network, tied_head="head") == 1
    assert type(network.head) is nn.Linear
    assert pack(network, tied_head=None) == 1


def _missing(*_: object) -> None:
    raise NotImplementedError("no such operator")


def _wrong(rows: Tensor, weight: Tensor, bias: Tensor | None, *_: object) -> Tensor:
    return functional.linear(rows, weight, bias) * 1.01


@pytest.mark.parametrize("broken", [_missing, _wrong])
@torch.no_grad()
def test_where_products_cannot_be_proved_weights_stay_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: Any
) -> None:
    class Operators:
        _reorder_linear_weight = staticmethod(lambda weight, _: weight)
        _linear_pointwise = staticmethod(broken)

    if broken is _missing:
        Operators._reorder_linear_weight = staticmethod(_missing)
    monkeypatch.setattr(torch.ops, "mkldnn", Operators)
    network = Two()
    with caplog.at_level(logging.WARNING):
        assert pack(network, tied_head=None) == 0
    assert type(network.inner[0]) is nn.Linear
    assert "not packed" in caplog.text
