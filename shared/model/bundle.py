"""Loading a bundle: what one machine needs of a model, in one folder, and nothing else.

A bundle holds `manifest.json`, `config.json`, the tokenizer's files, for quantized weights
`quantization.json`, and safetensors files whose tensors are exactly those the manifest promises.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from shared.errors import BadModel
from shared.model.checkpoint import StoredTensor, join, read_header
from shared.model.device import find_device
from shared.model.families import read_json, read_source
from shared.model.loading import build, check_shape
from shared.model.manifest import FILE, ROLES, Manifest
from shared.model.model import SpanModel
from shared.model.network import LAYERS, Network, Parts
from shared.model.packed import pack
from shared.model.quantized import DTYPE, MAP_FILE, Map, is_quantized, load_layer, stored_shapes
from shared.model.span import LayerSpan, ModelShape


def load_bundle(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    packed: bool = True,
) -> SpanModel:
    """Load a bundle; it must hold exactly what its manifest promises.

    Args:
        folder: a folder `write_bundles` made.
        device: where to compute.
        dtype: what to compute in; None means what the manifest's format says.
        packed: weights are packed where that makes a CPU faster, and are no parameters then.

    Raises:
        BadModel: there is no bundle in the folder, a tensor is missing, unknown or of another
            shape, a file is truncated, or the manifest is of an unknown format or contradicts the
            configuration.
        Invalid: this machine has no such device.
        ValueError: quantized weights compute in bfloat16 only.
    """
    place = find_device(device)
    _require_bundle(folder)
    manifest = Manifest.read(folder)
    source = read_source(folder)
    if (source.architecture, ModelShape.of(source.config)) != (
        manifest.architecture,
        manifest.shape,
    ):
        raise BadModel(f"{folder}: manifest and config.json describe different models")
    stored = join(read_header(path) for path in sorted(folder.glob("*.safetensors")))
    parts = _parts(manifest)
    network = build(source, parts, stored)
    quantized = is_quantized(manifest.compute_format)
    native = torch.float32 if manifest.compute_format == "fp32" else DTYPE
    if quantized and dtype not in (None, DTYPE):
        raise ValueError(f"{manifest.compute_format} weights compute in bfloat16 only")
    quanto_map: Map = read_json(folder / MAP_FILE) if quantized else {}
    _account(folder, network, stored, quanto_map)
    if quantized:
        _load_quantized_layers(network, parts.span, stored, quanto_map, place)
    _load_rest(network, stored, dtype or native, place, skip_layers=quantized)
    network.finish(place)
    if packed:
        pack(network, tied_head="lm_head" if network.tied else None)
    return SpanModel(
        source,
        parts,
        network,
        dtype=dtype or native,
        device=place,
        exits=manifest.exit_infos(),
        manifest=manifest,
    )


def _require_bundle(folder: Path) -> None:
    """Refuse what is often given for a bundle, saying what it is."""
    if not folder.is_dir():
        raise BadModel(f"there is no folder {folder}: `tandem partition` writes bundles")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise BadModel(f"{folder} may not be read by user {os.getuid()}: give it read permission")
    if (folder / FILE).exists():
        return
    if (folder / "config.json").exists():
        raise BadModel(
            f"{folder} is a checkpoint or an unfinished bundle, as it has no {FILE}: "
            "cut one with `tandem partition`"
        )
    sides = [side for side in ROLES if (folder / side / FILE).exists()]
    if sides:
        raise BadModel(f"{folder} holds bundles in folders of their own: {' and '.join(sides)}")
    raise BadModel(f"{folder} holds no bundle: there is no {FILE}")


def _parts(manifest: Manifest) -> Parts:
    edge = manifest.role == "edge"
    try:
        return Parts(
            manifest.span,
            embedding=edge or manifest.span.start == 0,
            head=not edge,
            exits=tuple(e.layer for e in manifest.exits),
        )
    except ValueError as error:
        raise BadModel(f"the manifest contradicts itself: {error}") from error


def _account(
    folder: Path, network: Network, stored: Mapping[str, StoredTensor], quanto_map: Map
) -> None:
    expected = stored_shapes(network, network.expected(), quanto_map)
    for name in sorted(expected.keys() ^ stored.keys()):
        fault = "an unknown tensor" if name in stored else "no tensor"
        raise BadModel(f"{folder} holds {fault} {name}")
    for name, shape in expected.items():
        check_shape(stored[name], shape)


def _load_rest(
    network: Network,
    stored: Mapping[str, StoredTensor],
    dtype: torch.dtype,
    device: torch.device,
    *,
    skip_layers: bool,
) -> None:
    for name, tensor in stored.items():
        if not (skip_layers and name.startswith(LAYERS)):
            network.assign(name, tensor.read(dtype, device))


def _load_quantized_layers(
    network: Network,
    span: LayerSpan,
    stored: Mapping[str, StoredTensor],
    quanto_map: Map,
    device: torch.device,
) -> None:
    for number in span.layers:
        prefix = f"{LAYERS}{number}."
        load_layer(
            network.model.layers[str(number)],
            {n.removeprefix(prefix): t.read() for n, t in stored.items() if n.startswith(prefix)},
            {n.removeprefix(prefix): k for n, k in quanto_map.items() if n.startswith(prefix)},
            device,
        )
