"""Linear layers whose weights lie in memory as oneDNN's kernels read them.

What torch multiplies with for itself leaves half of the memory's speed unused on CPUs that are not
its library's maker's, and takes a row of a step for each further one: packed, a product of few rows
takes a third to two thirds of the time (docs/decisions/0010). The operators are those torch's
compiler puts in when it freezes a model, so they need no compiler here. Each layer is proved at
loading, and stays as it was where that fails. Knows weights, not models.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_log = logging.getLogger(__name__)

# How far a product may be from torch's own, relative to its largest value.
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# A tied unembedding is packed beside the embedding, which stays: not if it is larger than this.
MOST_TWICE_BYTES = 64 * 1024**2
# Layouts made for about so many rows serve one row as well as hundreds.
_ROWS = 16


class PackedLinear(nn.Module):
    """A linear layer that keeps its weight packed, and no other copy."""

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weight [out, in] of `linear`.

        Raises:
            RuntimeError: this build or machine has no such operators.
        """
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias: Tensor | None = None if linear.bias is None else linear.bias.detach()
        operators: Any = torch.ops.mkldnn
        try:
            self._packed: Tensor = operators._reorder_linear_weight(linear.weight.detach(), _ROWS)
            self._multiply = operators._linear_pointwise
        except (AttributeError, NotImplementedError) as error:
            raise RuntimeError("there are no packed products here") from error

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        product: Tensor = self._multiply(rows, self._packed, self.bias, "none", [], "")
        return product


@torch.no_grad()
def pack(network: nn.Module, *, tied_head: str | None) -> int:
    """Put packed layers in the place of all plain linear ones on the CPU; returns how many.

    Args:
        network: its float32 and bfloat16 layers are packed, one after the other.
        tied_head: name of the layer whose weight is the embedding's too.
    """
    count = 0
    for name, module in list(network.named_modules()):
        if type(module) is not nn.Linear or not _suits(module, tied=name == tied_head):
            continue
        try:
            packed = PackedLinear(module)
            _prove(module, packed)
        except RuntimeError as error:
            _log.warning("weights are not packed: %s", error)
            return count
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, packed)
        count += 1
    return count


def _suits(linear: nn.Linear, *, tied: bool) -> bool:
    weight = linear.weight
    small = weight.nbytes <= MOST_TWICE_BYTES
    return weight.device.type == "cpu" and weight.dtype in ALLOWED and (small or not tied)


def _prove(linear: nn.Linear, packed: PackedLinear) -> None:
    """Hold one and several rows against torch's own product.

    Raises:
        RuntimeError: they are not the same but for rounding.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, linear.in_features, generator=generator).to(linear.weight.dtype)
    for few in (rows[:1], rows):
        expected = functional.linear(few, linear.weight, linear.bias).float()
        furthest = float((packed(few).float() - expected).abs().max())
        if not furthest <= ALLOWED[linear.weight.dtype] * (1 + float(expected.abs().max())):
            raise RuntimeError(f"a packed product is {furthest:g} from torch's own")
