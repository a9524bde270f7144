"""Linear layers whose weights lie in memory as oneDNN's kernels read them.

What torch multiplies with for itself leaves half of the memory's speed unused on CPUs that are not
its library's maker's, and takes a row of a step for each further one: packed, a product of few rows
takes a third to two thirds of the time (docs/decisions/0010). The operators are those torch's
compiler puts in when it freezes a model, so they need no compiler here. Layers that read the same
rows become one. Each product is proved at loading, and stays as it was where that fails. Knows
weights and the names of the modules that hold them, not models.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from optimum.quanto import QLinear
from torch import Tensor, nn

from shared.model.packed_integers import Int4Linear, Int8Linear, biases, is_int4, is_int8

# On CPUs with AMX oneDNN multiplies up to 32 rows of bfloat16 by one kernel and more by another,
# and some sums round otherwise. Held to the instructions before AMX it multiplies a row the same
# way beside any others. It reads this once, before its first product.
INSTRUCTIONS = "ONEDNN_MAX_CPU_ISA"
HELD_TO = "AVX512_CORE_BF16"
os.environ.setdefault(INSTRUCTIONS, HELD_TO)

_log = logging.getLogger(__name__)

# How far a product may be from what it replaces, relative to its largest value.
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# A tied unembedding is packed beside the embedding, which stays: not if it is larger than this.
MOST_TWICE_BYTES = 64 * 1024**2
# Layers of one module that read the same rows, and what their product is called.
TOGETHER = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
# oneDNN sums more inputs than this in parts where a row is alone, in one go where it is not: in
# bfloat16 some sums round to another value. Two rows take as long as one.
_WHOLE = 1024
# Rows of the proof that these do not depend on how many there are: more than a kernel's tile has.
_MANY = 40
# Layouts made for about so many rows serve one row as well as hundreds.
_ROWS = 16


class PackedLinear(nn.Module):
    """Linear layers of the same rows, one after another, that keep their weights packed, and no
    other copy.
    """

    def __init__(self, *linears: nn.Linear) -> None:
        """Pack the weights [out, in] of `linears`.

        Raises:
            RuntimeError: this build or machine has no such operators.
        """
        super().__init__()
        self.in_features = linears[0].in_features
        self.widths = [linear.out_features for linear in linears]
        self.out_features = sum(self.widths)
        self.bias = biases(linears)
        self._paired = self.in_features > _WHOLE and linears[0].weight.dtype == torch.bfloat16
        operators: Any = torch.ops.mkldnn
        weights = [_plain_weight(linear) for linear in linears]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        try:
            self._packed: Tensor = operators._reorder_linear_weight(weight, _ROWS)
            self._multiply = operators._linear_pointwise
        except (AttributeError, NotImplementedError) as error:
            raise RuntimeError("there are no packed products here") from error

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if self._paired and rows.shape[:-1].numel() == 1:
            return self._product(torch.cat((rows, rows)))[:1]
        return self._product(rows)

    def _product(self, rows: Tensor) -> Tensor:
        product: Tensor = self._multiply(rows, self._packed, self.bias, "none", [], "")
        return product


class Product(Protocol):
    """A packed kind: made of layers that read the same rows, or RuntimeError."""

    def __call__(self, *linears: Any) -> nn.Module: ...


@torch.no_grad()
def pack(network: nn.Module, *, tied_head: str | None) -> int:
    """Put packed products in the place of all linear layers on the CPU; returns how many layers
    are in one.

    Args:
        network: its layers are packed one after the other, those of `TOGETHER` into one.
        tied_head: name of the layer whose weight is the embedding's too.
    """
    count, failed = 0, set()
    for owner, names, name in list(_units(network, tied_head)):
        linears = [owner.get_submodule(leaf) for leaf in names]
        product = _kind(linears)
        if product is None or product in failed:
            continue
        try:
            packed = product(*linears)
            _prove(linears, packed)
        except RuntimeError as error:
            _log.warning("weights are not packed: %s", error)
            failed.add(product)  # another layer's would take as long to find out
            continue
        for leaf in {*names} - {name}:
            delattr(owner, leaf)
        setattr(owner, name, packed)
        count += len(names)
    return count


def _units(
    network: nn.Module, tied_head: str | None
) -> Iterator[tuple[nn.Module, tuple[str, ...], str]]:
    """Which layers of which module become what: those together that can be, then the others."""
    for path, owner in network.named_modules():
        held = {leaf for leaf, child in owner.named_children() if isinstance(child, nn.Linear)}
        for name, names in TOGETHER.items():
            if held.issuperset(names) and _kind([getattr(owner, n) for n in names]) is not None:
                yield owner, names, name
                held.difference_update(names)
        for leaf in sorted(held):
            whole = f"{path}.{leaf}" if path else leaf
            twice = getattr(owner, leaf).weight.nbytes > MOST_TWICE_BYTES
            if not (whole == tied_head and twice):
                yield owner, (leaf,), leaf


def _kind(linears: Sequence[nn.Module]) -> Product | None:
    """What packs these layers into one product; None: nothing does."""
    weights = [linear.weight for linear in linears if isinstance(linear, nn.Linear)]
    if any(weight.device.type != "cpu" for weight in weights):
        return None
    if all(is_int8(linear) for linear in linears):
        return Int8Linear
    # Their packed rows lie in blocks, which are put one after another only whole.
    if all(is_int4(linear, alone=len(linears) == 1) for linear in linears):
        return Int4Linear
    plain = all(type(linear) is nn.Linear for linear in linears)
    unpacked = all(type(linear) is QLinear and not is_int4(linear) for linear in linears)
    if (plain or unpacked) and {weight.dtype for weight in weights} <= ALLOWED.keys():
        return PackedLinear
    return None


def _plain_weight(linear: nn.Linear) -> Tensor:
    """The weight as torch multiplies with it. Quantized ones without a kernel of their own (groups
    of other than 128 inputs) would be made such at every product.
    """
    if isinstance(linear, QLinear):
        made: Tensor = linear.qweight.dequantize()
        return made
    return linear.weight.detach()


def _prove(linears: Sequence[nn.Module], packed: nn.Module) -> None:
    """Hold one and several rows against the product of the layers themselves, and in bfloat16 a row
    beside few against the same beside many.

    Raises:
        RuntimeError: they are not the same but for rounding; or, of bfloat16, not to the bit.
    """
    generator = torch.Generator().manual_seed(0)
    first: Any = linears[0]
    dtype: torch.dtype = first.weight.dtype
    rows = torch.randn(_MANY, first.in_features, generator=generator).to(dtype)
    if dtype == torch.bfloat16:
        alike = (packed(rows[:count])[0] for count in (1, 5))
        if not all(torch.equal(each, packed(rows)[0]) for each in alike):
            raise RuntimeError("in bfloat16 a row's product depends on the rows beside it here")
    for few in (rows[:1], rows[:5]):
        expected = torch.cat([linear(few) for linear in linears], dim=-1).float()
        furthest = float((packed(few).float() - expected).abs().max())
        if not furthest <= ALLOWED[dtype] * (1 + float(expected.abs().max())):
            raise RuntimeError(f"a packed product is {furthest:g} from torch's own")
