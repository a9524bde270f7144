"""The floor under a step: every linear layer of a model once, and nothing else.

What a step over the same rows takes beyond its own products is attention, norms, choosing tokens
and our own; against torch's plain products it may be ahead.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.model import SpanModel
from shared.model.packed import PackedLinear


class Floor:
    """The bare matrix products of one model."""

    def __init__(self, model: SpanModel, most_rows: int) -> None:
        modules = [m for m in model.network.modules() if isinstance(m, nn.Linear | PackedLinear)]
        self._weights = [_plain(module, model.dtype) for module in modules]
        self._own = modules
        widths = {module.in_features for module in modules}
        self._inputs = {
            width: torch.randn(most_rows, width, dtype=model.dtype, device=model.device)
            for width in widths
        }

    @torch.no_grad()
    def plain(self, rows: int) -> None:
        """Multiply so many rows with every weight, by torch's own product."""
        for weight in self._weights:
            functional.linear(self._inputs[weight.shape[1]][:rows], weight)

    @torch.no_grad()
    def own(self, rows: int) -> None:
        """The same by the products the model itself uses."""
        for module in self._own:
            module(self._inputs[module.in_features][:rows])


def _plain(module: nn.Linear | PackedLinear, dtype: torch.dtype) -> Tensor:
    """A weight as torch multiplies with it; of a packed one, another of its shape."""
    if isinstance(module, nn.Linear):
        return module.weight
    return torch.randn(module.out_features, module.in_features, dtype=dtype)
