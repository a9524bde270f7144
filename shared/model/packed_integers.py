"""Products with int8 and int4 weights, by torch's operators themselves.

quanto wraps its weights in tensors of its own, whose dispatch takes longer than a small product:
here the tensors inside are multiplied. Knows quanto's weights, not how they were made.
"""

from collections.abc import Sequence
from typing import Any

import torch
from optimum.quanto import QLinear
from optimum.quanto.tensor.weights.qbytes import WeightQBytesTensor
from optimum.quanto.tensor.weights.tinygemm import TinyGemmWeightQBitsTensor
from torch import Tensor, nn

# Rows of int4 weights lie in blocks of so many (torch 2.13; 32 without AVX-512).
_BLOCK = 64
# A row's largest value becomes 127 times 256: two bytes, each of which is multiplied as 128 more
# than it is, since the kernels take unsigned rows.
_LARGEST = 127 * 256
_OFFSET = 128 * 256 + 128
_NONE = 1e-30  # what an empty row is divided by


def is_int8(linear: nn.Module) -> bool:
    """Whether a layer's weights are quanto's int8."""
    return type(linear) is QLinear and isinstance(linear.weight, WeightQBytesTensor)


def is_int4(linear: nn.Module, *, alone: bool = True) -> bool:
    """Whether a layer's weights are quanto's int4 as torch's kernel takes them, and (not `alone`)
    can be put in front of others.
    """
    if type(linear) is not QLinear or not isinstance(linear.weight, TinyGemmWeightQBitsTensor):
        return False
    return alone or len(linear.weight) % _BLOCK == 0


def biases(linears: Sequence[nn.Linear]) -> Tensor | None:
    """The biases of layers one after another; those that have none count as zero."""
    if all(linear.bias is None for linear in linears):
        return None
    weights = [linear.weight for linear in linears]
    zeros = [torch.zeros(len(weight), dtype=weight.dtype) for weight in weights]
    found = [zero if ln.bias is None else ln.bias for ln, zero in zip(linears, zeros, strict=True)]
    return torch.cat([bias.detach() for bias in found])


class Int8Linear(nn.Module):
    """Layers of the same rows with int8 weights, multiplied in whole numbers.

    A row becomes 16 bits a value, by its own largest: two rows of bytes, of which one product gives
    whole sums. So a row's result is to the bit the same beside any others and by any kernel, the
    time hardly grows with the first rows, and what a row loses is less than bfloat16 does.
    (Bytes alone, as in Dettmers et al., "LLM.int8()", arXiv 2208.07339, lose three times as much.)
    """

    def __init__(self, *linears: QLinear) -> None:
        """Pack the weights of `linears`.

        Raises:
            RuntimeError: this build has no such operators, or this machine's are not exact.
        """
        super().__init__()
        self.in_features: int = linears[0].in_features
        self.widths = [int(linear.out_features) for linear in linears]
        self.out_features = sum(self.widths)
        self.bias = biases(linears)
        weights = torch.cat([linear.weight._data for linear in linears])
        self._scales = torch.cat([linear.weight._scale for linear in linears]).float().flatten()
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self._none = torch.tensor(_NONE)
        operators: Any = torch.ops.onednn
        try:
            self._packed: Tensor = operators.qlinear_prepack(weights, None)
            self._multiply = operators.qlinear_pointwise.default
            self._prove(weights)
        except (AttributeError, NotImplementedError) as error:
            raise RuntimeError("there are no whole-number products here") from error

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        given = rows.reshape(-1, self.in_features).float()
        count = len(given)
        steps = torch.add(self._none, given.abs().amax(dim=1, keepdim=True), alpha=1 / _LARGEST)
        whole = (given / steps).add_(_OFFSET + 0.5).to(torch.uint16)
        planes = whole.view(torch.uint8).view(count, -1, 2).permute(2, 0, 1)
        low, high = self._sums(planes.reshape(2 * count, -1)).view(2, count, -1)
        product: Tensor = low.add_(high, alpha=256).mul_(steps).to(rows.dtype)
        if self.bias is not None:
            product = product + self.bias
        return product.view(*rows.shape[:-1], -1)

    def _sums(self, planes: Tensor) -> Tensor:
        """Bytes [R, in], each 128 too large, times the weights: float32 [R, out]."""
        sums: Tensor = self._multiply(
            planes, 1.0, 128, self._packed, self._scales, self._zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return sums

    def _prove(self, weights: Tensor) -> None:
        """Hold products of the largest bytes against exact ones: kernels for CPUs without VNNI add
        pairs of them in 16 bits, which is too few.

        Raises:
            RuntimeError: they differ.
        """
        generator = torch.Generator().manual_seed(0)
        planes = 255 * torch.randint(2, (4, self.in_features), generator=generator)
        planes[0] = 255
        few = slice(0, _BLOCK)
        exact = (planes - 128).double() @ weights[few].double().T * self._scales[few].double()
        found = self._sums(planes.to(torch.uint8))[:, few].double()
        if not torch.allclose(found, exact, rtol=1e-6, atol=0):
            raise RuntimeError("whole-number products are not exact on this CPU")


class Int4Linear(nn.Module):
    """Layers of the same rows with int4 weights in groups of 128, multiplied as they are; rows stay
    bfloat16. The time grows with every row.
    """

    def __init__(self, *linears: QLinear) -> None:
        """Take the weights of `linears`."""
        super().__init__()
        self.in_features: int = linears[0].in_features
        self.widths = [int(linear.out_features) for linear in linears]
        self.out_features = sum(self.widths)
        self.bias = biases(linears)
        weights = [linear.weight for linear in linears]
        self._group: int = weights[0]._group_size
        self._packed = torch.cat([weight._data._data for weight in weights])
        self._scales = torch.cat([weight._scale_shift for weight in weights], dim=1)
        self._multiply: Any = torch.ops.aten._weight_int4pack_mm_for_cpu.default

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        given = rows.reshape(-1, self.in_features)
        product: Tensor = self._multiply(given, self._packed, self._group, self._scales)
        if self.bias is not None:
            product = product + self.bias
        return product.view(*rows.shape[:-1], -1)
