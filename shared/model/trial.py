"""What the matrix products of a step take on this machine, in each format, for a model of given
sizes: measured on random weights of its shapes, since values do not change the time.

Knows products only: attention and norms are the same in every format.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from shared.model.families import Source, read_source
from shared.model.network import Network, Parts
from shared.model.packed import pack
from shared.model.quantized import DTYPE, is_quantized, quantize_layer, ungraded
from shared.model.span import LayerSpan

FORMATS = ("fp32", "bf16", "int8", "int4")
# Weights tried are at least so many, where the model has them: a cache that held them all would
# flatter.
_BYTES = 96 * 1024**2
_WARM_UP, _REPEATS = 2, 7


@dataclass(frozen=True, slots=True)
class Trial:
    """A format: seconds the products of one step take by its rows, the bytes of all layers' and the
    unembedding's weights, and how many of a layer's products are packed.
    """

    compute_format: str
    seconds: tuple[float, ...]
    weight_bytes: int
    packed: int


def try_format(folder: Path, compute_format: str, rows: Sequence[int]) -> Trial:
    """Measure a format on the shapes of the model in `folder`, a checkpoint or a bundle.

    Raises:
        BadModel: there is no configuration, or one that is not supported.
    """
    source = read_source(folder)
    config = source.config
    dtype = torch.float32 if compute_format == "fp32" else DTYPE
    layers = [_layer(source, compute_format, dtype)]
    each = _nbytes(layers[0])
    depth = int(config.num_hidden_layers)
    layers += [
        _layer(source, compute_format, dtype) for _ in range(min(depth, -(-_BYTES // each)) - 1)
    ]
    packed = [pack(layer, tied_head=None) for layer in layers]
    head = nn.ModuleDict(
        {"head": nn.Linear(config.hidden_size, config.vocab_size, bias=False, dtype=dtype)}
    )
    at_the_end = _nbytes(head)
    pack(head, tied_head=None)
    seconds = []
    for count in rows:
        layer = statistics.median(_times(layers, count, dtype)) / len(layers)
        seconds.append(depth * layer + statistics.median(_times([head], count, dtype)))
    return Trial(compute_format, tuple(seconds), depth * each + at_the_end, packed[0])


def _layer(source: Source, compute_format: str, dtype: torch.dtype) -> nn.Module:
    """A decoder layer with random weights, quantized if the format is."""
    first = LayerSpan(0, 1, source.config.num_hidden_layers)
    network = Network(source, Parts(first, embedding=False, head=False), {})
    layer = network.model.layers["0"].to(dtype).to_empty(device="cpu").requires_grad_(False)
    for parameter in layer.parameters():
        parameter.normal_(std=0.02)
    if is_quantized(compute_format):
        quantize_layer(layer, compute_format)
    return layer


def _nbytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _times(owners: Sequence[nn.Module], rows: int, dtype: torch.dtype) -> list[float]:
    """Seconds of all products of `owners` on so many rows, measured several times."""
    products = [
        (module, torch.randn(rows, width, dtype=dtype))
        for owner in owners
        for module in owner.modules()
        if isinstance(width := getattr(module, "in_features", None), int)
    ]
    found = []
    with ungraded(*owners)():
        for _ in range(_WARM_UP + _REPEATS):
            began = time.perf_counter()
            for module, given in products:
                module(given)
            found.append(time.perf_counter() - began)
    return found[_WARM_UP:]
