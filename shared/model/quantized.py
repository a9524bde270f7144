"""Decoder layers with int8 or int4 weights, through optimum-quanto: made, named, and loaded.

Only the linear layers are quantized; activations, norms, embedding and heads stay bfloat16. Knows
one layer at a time, so a model never has to fit in memory twice. Nothing is compiled: a read-only
machine without a compiler serves every format.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from optimum.quanto import (
    QLinear,
    freeze,
    qint4,
    qint8,
    quantization_map,
    quantize,
    requantize,
)
from optimum.quanto.library.extensions import get_extension, is_extension_available
from torch import Tensor, nn

from shared.errors import BadModel

MAP_FILE = "quantization.json"
DTYPE = torch.bfloat16
_KINDS: Mapping[str, Any] = {"int8": qint8, "int4": qint4}
# torch's CPU kernel for int8 weights reads whole groups of 16 inputs, past the end of a row that is
# no multiple of them (torch 2.13; quanto 0.2.7 checks for multiples of 4 only).
_INPUT_MULTIPLE = 16

Map = Mapping[str, Mapping[str, str]]


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Take the two nibbles of each byte apart: all the low ones, then all the high ones."""
    if bits != 4:
        raise ValueError(f"{bits} bits a value are not in use here")
    return torch.cat((packed & 0x0F, packed >> 4))


# quanto has a library of its own for this, which it compiles into its folder when int4 weights are
# first used; that needs a compiler and a writable installation, and one that was killed leaves a
# lock others wait on for ever. bfloat16 weights need nothing else of it (0.2.7).
for _compiled in ("quanto_cpp", "quanto_cuda", "quanto_hip"):
    if is_extension_available(_compiled):
        get_extension(_compiled)._lib = SimpleNamespace(unpack=unpack)


def is_quantized(compute_format: str) -> bool:
    """Whether a format keeps quantized weights."""
    return compute_format in _KINDS


def ungraded(*networks: nn.Module) -> type[torch.no_grad] | type[torch.inference_mode]:
    """How `networks` are run without gradients: quanto transposes its int4 weights by a view, which
    inference mode, the faster, forbids to their kind. Packed weights are none of its tensors.
    """
    quanto = any(isinstance(m, QLinear) for network in networks for m in network.modules())
    return torch.no_grad if quanto else torch.inference_mode


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


def stored_shapes(
    network: nn.Module, expected: Mapping[str, torch.Size], quanto_map: Map
) -> dict[str, torch.Size]:
    """Names and shapes of the tensors of `expected` as they are stored once `quanto_map` has been
    applied to the linear layers of `network`.

    Raises:
        BadModel: the map names what is no linear layer, or a type that is not known.
    """
    shapes = dict(expected)
    for name, kinds in quanto_map.items():
        shape = shapes.pop(f"{name}.weight", None)
        known = {kind.name: kind for kind in _KINDS.values()}
        kind = known.get(kinds.get("weights", "")) if isinstance(kinds, Mapping) else None
        if shape is None or len(shape) != 2 or kind is None:
            raise BadModel(f"the quantization map does not fit: {name} as {kinds}")
        linear: Any = network.get_submodule(name)
        parts = _int8_shapes(shape) if kind is qint8 else _int4_shapes(shape, linear)
        for part, size in parts.items():
            shapes[f"{name}.weight.{part}"] = torch.Size(size)
        for scale in ("input_scale", "output_scale"):
            shapes[f"{name}.{scale}"] = torch.Size(())
    return shapes


def _int8_shapes(shape: torch.Size) -> dict[str, tuple[int, ...]]:
    return {"_data": tuple(shape), "_scale": (shape[0], 1)}


def _int4_shapes(shape: torch.Size, linear: nn.Linear) -> dict[str, tuple[int, ...]]:
    """Groups of values share a scale and a shift; two groups lie in the nibbles of one row."""
    width = QLinear.qcreate(linear, weights=qint4, device="meta").weight_group_size or shape[1]
    groups = shape.numel() // width
    scale = (groups, 1)
    return {"_data._data": (-(-groups // 2), width), "_scale": scale, "_shift": scale}


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
