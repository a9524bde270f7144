"""Decoder layers with int8 or int4 weights, through optimum-quanto: made, named, and loaded.

Only the linear layers are quantized; activations, norms, embedding and heads stay bfloat16. Knows
one layer at a time, so a model never has to fit in memory twice.
"""

from collections.abc import Mapping
from typing import Any

import torch
from optimum.quanto import freeze, qint4, qint8, quantization_map, quantize, requantize
from torch import Tensor, nn

from shared.errors import BadModel

MAP_FILE = "quantization.json"
DTYPE = torch.bfloat16
_KINDS: Mapping[str, Any] = {"int8": qint8, "int4": qint4}
# What quanto writes in place of a linear layer's `weight`, by the name of its type.
_STORED: Mapping[str, tuple[str, ...]] = {
    "qint8": ("weight._data", "weight._scale", "input_scale", "output_scale"),
    "qint4": (
        "weight._data._data",
        "weight._scale",
        "weight._shift",
        "input_scale",
        "output_scale",
    ),
}

# torch's CPU kernel for int8 weights reads whole groups of 16 inputs, past the end of a row that is
# no multiple of them (torch 2.13; quanto 0.2.7 checks for multiples of 4 only).
_INPUT_MULTIPLE = 16

Map = Mapping[str, Mapping[str, str]]


def is_quantized(compute_format: str) -> bool:
    """Whether a format keeps quantized weights."""
    return compute_format in _KINDS


def quantize_layer(layer: nn.Module, compute_format: str) -> tuple[dict[str, Tensor], Map]:
    """Quantize a loaded bfloat16 layer in place; returns its tensors and quanto's map of its
    linear layers, both by name within the layer.

    A linear layer whose inputs are no multiple of 16 stays bfloat16.
    """
    include = [
        name
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and module.in_features % _INPUT_MULTIPLE == 0
    ]
    quantize(layer, weights=_KINDS[compute_format], include=include)
    freeze(layer)
    return dict(layer.state_dict()), quantization_map(layer)


def stored_names(parameters: set[str], quanto_map: Map) -> set[str]:
    """Names under which `parameters` of a layer are stored once `quanto_map` has been applied.

    Raises:
        BadModel: the map names a layer that is none, or a type that is not known.
    """
    names = set(parameters)
    for linear, kinds in quanto_map.items():
        suffixes = _STORED.get(kinds.get("weights", ""))
        if f"{linear}.weight" not in names or suffixes is None:
            raise BadModel(f"the quantization map does not fit: {linear} as {dict(kinds)}")
        names.remove(f"{linear}.weight")
        names.update(f"{linear}.{suffix}" for suffix in suffixes)
    return names


def load_layer(
    layer: nn.Module, tensors: Mapping[str, Tensor], quanto_map: Map, device: torch.device
) -> None:
    """Fill a layer that lies on the meta device with quantized `tensors`, named within the layer.

    Raises:
        BadModel: a tensor's shape or dtype does not fit.
    """
    layer.to(DTYPE)
    try:
        requantize(layer, dict(tensors), {k: dict(v) for k, v in quanto_map.items()}, device)
    except (RuntimeError, ValueError, AssertionError, KeyError) as error:
        raise BadModel(f"quantized weights do not fit their layer: {error}") from error
    layer.requires_grad_(False)
