"""A span straight from a checkpoint folder: every tensor accounted for, only the span's read.

Knows where tensors lie and which module wants them; does not run the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch

from shared.errors import BadModel
from shared.model.checkpoint import StoredTensor, read_checkpoint
from shared.model.device import find_device
from shared.model.exits import (
    Drafter,
    ExitInfo,
    TrainedExits,
    read_drafter,
    read_exits,
    translators,
)
from shared.model.families import Source, read_source
from shared.model.model import SpanModel
from shared.model.network import EMBEDDING, LAYERS, UNEMBEDDING, Network, Parts, all_names
from shared.model.span import LayerSpan

# Checkpoints of early Llama conversions carry these; they are computed from the configuration.
_COMPUTED = ".rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder whose tensors have been accounted for."""

    folder: Path
    source: Source
    tensors: Mapping[str, StoredTensor]
    exits: TrainedExits

    def sources(
        self, exits: Sequence[int], drafter: Drafter | None = None
    ) -> dict[str, StoredTensor]:
        """Where every tensor is read, those of the named exits included, and a drafter's in place
        of the layers and the exit it replaces.
        """
        found = {**self.tensors, **self.exits.sources(exits, self.tensors)}
        return found if drafter is None else drafter.replace(found)

    def drafter(self, split: int, edge_depth: int) -> Drafter | None:
        """The drafter beside the checkpoint for exactly this cut; None where there is none.

        Whether it was trained on this very model is the caller's to check: a fingerprint reads
        every byte.

        Raises:
            BadModel: its files are broken, or its tensors are not those that it replaces.
        """
        drafter = read_drafter(self.folder, split, edge_depth)
        if drafter is None:
            return None
        prefixes = tuple(f"{LAYERS}{layer}." for layer in range(split, edge_depth))
        replaced = {name for name in self.tensors if name.startswith(prefixes)}
        layers = {name for name in drafter.tensors if not name.startswith("exits.")}
        for name in sorted(layers ^ replaced):
            fault = "holds, which it does not replace," if name in layers else "lacks"
            raise BadModel(f"the drafter {split}-{edge_depth} of {self.folder} {fault} {name}")
        for name in layers:
            check_shape(drafter.tensors[name], torch.Size(self.tensors[name].shape))
        return drafter


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read configuration and headers, and account for every tensor.

    Raises:
        BadModel: naming the unsupported feature, or the tensor that is missing, unknown, of another
            shape, or (a tied unembedding) not what it is said to be.
    """
    source = read_source(folder)
    stored = read_checkpoint(folder)
    tensors = {name: t for name, t in stored.items() if not name.endswith(_COMPUTED)}
    expected = all_names(source)
    optional = {UNEMBEDDING} if source.tied else set()
    for name in sorted(tensors.keys() ^ expected.keys()):
        if name not in optional:
            fault = "an unknown tensor" if name in tensors else "no tensor"
            raise BadModel(f"{folder} holds {fault} {name}")
    for name, tensor in tensors.items():
        check_shape(tensor, expected[name])
    if source.tied and UNEMBEDDING in tensors:
        _check_tied(tensors)
    return Checkpoint(folder, source, tensors, read_exits(folder))


def load_span(
    checkpoint: Path,
    span: LayerSpan,
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    embedding: bool,
    head: bool,
    exits: Sequence[int] = (),
    drafter: Drafter | None = None,
) -> SpanModel:
    """Load layers `span` of a Hugging Face checkpoint, reading only what they need.

    Args:
        checkpoint: folder with config.json and safetensors files.
        span: the layers.
        dtype: what to compute in; weights are converted while they are read.
        device: where to compute.
        embedding: whether token ids may enter.
        head: whether to hold the final norm and the unembedding.
        exits: layers to hold an exit in front of.
        drafter: what replaces layers and an exit; the span must end where the drafter does.

    Raises:
        BadModel: the checkpoint is broken or not supported, naming what is wrong.
        Invalid: this machine has no such device.
        ValueError: the span has another depth or does not reach what is asked for.
    """
    opened = open_checkpoint(checkpoint)
    if span.depth != opened.source.config.num_hidden_layers:
        raise ValueError(f"{span} is not of {opened.source.config.num_hidden_layers} layers")
    if drafter is not None and drafter.edge_depth != span.stop:
        raise ValueError(f"a drafter up to layer {drafter.edge_depth} does not end {span}")
    parts = Parts(span, embedding, head, tuple(exits))
    sources = opened.sources(parts.exits, drafter)
    network = build(opened.source, parts, sources)
    place = find_device(device)
    for name, shape in network.expected().items():
        if name not in sources:
            raise BadModel(f"there is no tensor {name}")
        check_shape(sources[name], shape)
        network.assign(name, sources[name].read(dtype, place))
    network.finish(place)
    known = opened.exits.infos if drafter is None else drafter.infos
    infos = {layer: known.get(layer, ExitInfo()) for layer in parts.exits}
    return SpanModel(opened.source, parts, network, dtype=dtype, device=place, exits=infos)


def build(source: Source, parts: Parts, sources: Mapping[str, StoredTensor]) -> Network:
    """Build a span's modules on the meta device, exits shaped by their tensors in `sources`.

    Raises:
        BadModel: there are tensors of other exits than those of `parts`.
    """
    shapes = translators({n: t for n, t in sources.items() if n.startswith("exits.")})
    if shapes.keys() != set(parts.exits):
        named, held = sorted(parts.exits), sorted(shapes)
        raise BadModel(f"exits {named} are named, exits {held} have tensors")
    return Network(source, parts, shapes)


def check_shape(tensor: StoredTensor, shape: torch.Size) -> None:
    """Raise BadModel unless the tensor has this shape."""
    if tensor.shape != tuple(shape):
        raise BadModel(f"tensor {tensor.name} has shape {tensor.shape}, not {tuple(shape)}")


def _check_tied(tensors: Mapping[str, StoredTensor]) -> None:
    pieces = zip_longest(tensors[EMBEDDING].pieces(), tensors[UNEMBEDDING].pieces())
    if any(one != other for one, other in pieces):
        raise BadModel(f"{UNEMBEDDING} differs from {EMBEDDING}, to which it is said to be tied")
