"""Products with quantized weights: close to quanto's own, and the same beside any other rows."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from optimum.quanto import QLinear, freeze, qint4, qint8, quantize
from torch import Tensor, nn

from shared.model import SpanModel, load_bundle, write_bundles
from shared.model.packed import PackedLinear, pack
from shared.model.packed_integers import Int4Linear, Int8Linear
from tests.support.tiny_models import checkpoint, feed, prompt

KINDS = {"int8": qint8, "int4": qint4}
COUNTS = [1, 2, 3, 5, 8, 16, 33, 64, 130]


class Attention(nn.Module):
    """Three layers that read the same rows, and one of its own."""

    def __init__(self, inputs: int, outputs: Sequence[int], *, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        for name, width in zip(("q_proj", "k_proj", "v_proj"), outputs, strict=True):
            self.add_module(name, nn.Linear(inputs, width, bias=bias, dtype=torch.bfloat16))
        self.o_proj = nn.Linear(inputs, inputs, bias=False, dtype=torch.bfloat16)


# Untyped: which products it has, and how they are called, depends on what was packed.
def quantized(kind: str, inputs: int = 256, outputs: Sequence[int] = (256, 64, 64)) -> Any:
    made = Attention(inputs, outputs, bias=True)
    quantize(made, weights=KINDS[kind])
    freeze(made)
    return made


def rows_of(count: int, width: int) -> Tensor:
    """Rows of very different sizes, one of them with a value far above its others."""
    torch.manual_seed(count)
    rows = torch.randn(count, width) * torch.logspace(-3, 3, count)[:, None]
    rows[0, 0] = 100 * rows[0].abs().max()
    return rows.bfloat16()


@pytest.mark.parametrize(("kind", "allowed"), [("int8", 5e-3), ("int4", 1e-2)])
@pytest.mark.parametrize("outputs", [(256, 64, 64), (256, 48, 48)])
@torch.no_grad()
def test_packed_products_are_quantos(kind: str, allowed: float, outputs: tuple[int, ...]) -> None:
    plain, packed = quantized(kind, outputs=outputs), quantized(kind, outputs=outputs)
    assert pack(packed, tied_head=None) == 4
    together = hasattr(packed, "qkv_proj")
    assert together == (kind == "int8" or outputs[1] % 64 == 0)
    for count in (1, 7, 40):
        rows = rows_of(count, 256)
        expected = torch.cat([getattr(plain, f"{n}_proj")(rows) for n in "qkv"], dim=-1).float()
        found = [packed.qkv_proj] if together else [getattr(packed, f"{n}_proj") for n in "qkv"]
        made = torch.cat([product(rows) for product in found], dim=-1).float()
        furthest = (made - expected).abs().amax(1) / expected.abs().amax(1)
        assert float(furthest.max()) < allowed
        assert made.shape == expected.shape


@pytest.mark.parametrize(("kind", "product"), [("int8", Int8Linear), ("int4", Int4Linear)])
@torch.no_grad()
def test_a_row_is_the_same_to_the_bit_beside_any_others(kind: str, product: Any) -> None:
    network = quantized(kind)
    pack(network, tied_head=None)
    for layer in (network.qkv_proj, network.o_proj):
        assert isinstance(layer, product)
        rows = rows_of(130, 256)
        alone = torch.cat([layer(row[None]) for row in rows])
        for count in COUNTS:
            for first in (0, 130 - count):
                found = layer(rows[first : first + count])
                assert torch.equal(found, alone[first : first + count])


@torch.no_grad()
def test_int8_loses_no_more_of_a_row_than_bfloat16_does() -> None:
    network, plain = quantized("int8"), quantized("int8")
    pack(network, tied_head=None)
    weight = plain.o_proj.weight.dequantize().double()
    rows = rows_of(64, 256)
    exact = rows.double() @ weight.T
    errors = [(layer(rows) - exact).norm(dim=1) for layer in (network.o_proj, plain.o_proj)]
    assert bool((errors[0] < 1.1 * errors[1]).all())


@torch.no_grad()
def test_empty_and_broken_rows_stay_what_they_are() -> None:
    network = quantized("int8")
    pack(network, tied_head=None)
    rows = torch.zeros(3, 256, dtype=torch.bfloat16)
    rows[1, 5], rows[2, 5] = torch.nan, torch.inf
    found = network.o_proj(rows)
    assert torch.equal(found[0], torch.zeros(256, dtype=torch.bfloat16))
    assert not found[1:].isfinite().any()


@torch.no_grad()
def test_int4_without_a_kernel_of_its_own_becomes_bfloat16_once() -> None:
    network, plain = quantized("int4", inputs=96), quantized("int4", inputs=96)
    assert pack(network, tied_head=None) == 4
    assert isinstance(network.qkv_proj, PackedLinear)
    rows = rows_of(5, 96)
    torch.testing.assert_close(network.o_proj(rows), plain.o_proj(rows), rtol=2e-2, atol=1e-2)


@torch.no_grad()
def test_where_pairs_saturate_int8_stays_quantos_and_the_rest_is_packed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a CPU without VNNI: 2 * 255 * 127 is more than 16 bits hold."""
    whole = Int8Linear._sums

    def saturating(self: Int8Linear, planes: Tensor) -> Tensor:
        return whole(self, planes).clamp(max=float(self._scales.max()) * 2**15)

    monkeypatch.setattr(Int8Linear, "_sums", saturating)
    network = nn.Sequential(quantized("int8"), nn.Linear(32, 32, dtype=torch.bfloat16))
    with caplog.at_level(logging.WARNING):
        assert pack(network, tied_head=None) == 1
    assert type(network[0].q_proj) is QLinear
    assert "not exact on this CPU" in caplog.text


def states(model: SpanModel) -> Tensor:
    with model.new_cache() as kv:
        return feed(model, kv, prompt(16), stop=4).float()


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen2"])
def test_a_packed_bundle_computes_what_the_same_unpacked_does(
    name: str, kind: str, tmp_path: Path
) -> None:
    write_bundles(
        checkpoint(name),
        tmp_path,
        split=2,
        edge_depth=4,
        edge_format=kind,
        cloud_format="bf16",
        protocol_version=1,
    )
    packed, plain = (load_bundle(tmp_path / "edge", packed=each) for each in (True, False))
    assert not any(isinstance(module, nn.Linear) for module in packed.network.modules())
    expected = states(plain)
    error = (states(packed) - expected).norm() / expected.norm()
    assert float(error) < 0.04
