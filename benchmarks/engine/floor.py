"""The floor under a step: every linear layer of a model once, and nothing else.

What a step over the same rows takes beyond its own products is attention, norms, choosing tokens
and our own; against torch's plain products it may be ahead.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from shared.model import SpanModel
from shared.model.packed import PackedLinear
from shared.model.packed_integers import Int4Linear, Int8Linear

_PRODUCTS = (nn.Linear, PackedLinear, Int8Linear, Int4Linear)


class Floor:
    """The bare matrix products of one model: torch's plain ones, layer by layer in the model's
    dtype, and those the model itself uses, which may be of several layers at once.
    """

    def __init__(self, model: SpanModel, most_rows: int) -> None:
        self._own = [m for m in model.network.modules() if isinstance(m, _PRODUCTS)]
        dtype, device = model.dtype, model.device
        # What is packed is no longer there to multiply with: others of its shape take as long.
        self._weights = [
            torch.randn(width, module.in_features, dtype=dtype, device=device)
            for module in self._own
            for width in _widths(module)
        ]
        self._inputs = {
            width: torch.randn(most_rows, width, dtype=dtype, device=device)
            for width in {module.in_features for module in self._own}
        }

    @torch.inference_mode()
    def plain(self, rows: int) -> None:
        """Multiply so many rows with every weight, by torch's own product."""
        for weight in self._weights:
            functional.linear(self._inputs[weight.shape[1]][:rows], weight)

    @torch.inference_mode()
    def own(self, rows: int) -> None:
        """The same by the products the model itself uses."""
        for module in self._own:
            module(self._inputs[module.in_features][:rows])


def _widths(module: nn.Module) -> Sequence[int]:
    """Outputs of the layers a product is of."""
    widths: Sequence[int] = getattr(module, "widths", [module.out_features])
    return widths
