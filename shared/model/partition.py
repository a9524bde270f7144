"""Cutting a checkpoint into two bundles, one for each side.

Knows which side gets what; not how it is loaded or served. Files hold a layer each, so that no more
than one layer is in memory at a time.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from shared.errors import BadModel
from shared.exits.calibration import TEXTS, Agreement, file_of
from shared.model.checkpoint import StoredTensor
from shared.model.exits import Drafter, ExitInfo, exits_sha256, read_agreement_beside
from shared.model.fingerprint import Progress, fingerprint
from shared.model.loading import Checkpoint, build, open_checkpoint
from shared.model.manifest import FILE, WEIGHTS, Manifest, ManifestExit, Role, Weights
from shared.model.network import LAYERS, Network, Parts
from shared.model.quantized import (
    DTYPE,
    MAP_FILE,
    Map,
    is_quantized,
    quantize_layer,
)
from shared.model.span import LayerSpan, ModelShape

_COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def write_bundles(
    source: Path,
    out: Path,
    *,
    split: int,
    edge_depth: int,
    edge_format: str,
    cloud_format: str,
    cloud_start: int = 0,
    protocol_version: int,
    use_drafter: bool = True,
    progress: Progress | None = None,
) -> tuple[Manifest, Manifest]:
    """Cut the checkpoint `source` into `out`/edge and `out`/cloud.

    The edge gets the embedding, layers [0, edge_depth), exits in front of `split` and `edge_depth`
    and the unembedding they share; the cloud gets layers from `cloud_start` on, the head, and the
    embedding if it starts at layer 0. Where a drafter for exactly this cut lies beside the
    checkpoint, the edge's layers from `split` on and its last exit are the drafter's; the cloud's
    never are. Where calibrations of exactly these exits lie there too (with a drafter: made with it
    in place), the edge gets them, as `agreement.json` and `agreement-sampled.json`, but not in
    int4, which they do not hold for. A manifest is written last: without it a bundle is not whole.

    Args:
        source: a Hugging Face checkpoint folder.
        out: where both folders go; earlier bundles there are replaced.
        split: the layer where the cloud takes over.
        edge_depth: the layer where the edge's span ends.
        edge_format: how the edge keeps weights: fp32, bf16, int8 or int4.
        cloud_format: the same for the cloud.
        cloud_start: the cloud's first layer.
        protocol_version: what both sides will speak.
        use_drafter: whether a drafter is put in.
        progress: called with (what, done, total).

    Raises:
        BadModel: the checkpoint is broken or not supported, or its exits, the drafter or the
            calibration belong to another model.
        ValueError: the model cannot be cut at these layers, or a format is unknown.
    """
    opened = open_checkpoint(source)
    depth = ModelShape.of(opened.source.config).depth
    if not 1 <= split <= edge_depth < depth:
        raise ValueError(f"1 <= {split} <= {edge_depth} < {depth} does not hold: no such cut")
    if not 0 <= cloud_start <= split:
        raise ValueError(f"a cloud from layer {cloud_start} on leaves a gap above split {split}")
    exits = tuple(sorted({split, edge_depth}))
    edge = Parts(LayerSpan(0, edge_depth, depth), embedding=True, head=False, exits=exits)
    cloud = Parts(LayerSpan(cloud_start, depth, depth), embedding=cloud_start == 0, head=True)
    found = _checked_fingerprint(opened, progress)
    beside = _checked(opened, found, (split, edge_depth), use_drafter=use_drafter)
    if edge_format == "int4":
        beside = replace(beside, agreements=())
    writer = _Writer(opened, found, protocol_version, progress)
    kinds = (_weights(edge_format), _weights(cloud_format))
    return (
        writer.write(out / "edge", "edge", edge, kinds[0], cut=(split, edge_depth), beside=beside),
        writer.write(out / "cloud", "cloud", cloud, kinds[1], cut=(None, None)),
    )


@dataclass(frozen=True, slots=True)
class _Beside:
    """What lies beside a checkpoint for the edge of one cut."""

    drafter: Drafter | None = None
    agreements: tuple[Agreement, ...] = ()
    exits_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes bundles of one checkpoint."""

    opened: Checkpoint
    fingerprint: str
    protocol_version: int
    progress: Progress | None

    def write(
        self,
        folder: Path,
        role: Role,
        parts: Parts,
        kind: Weights,
        *,
        cut: tuple[int | None, int | None],
        beside: _Beside = _Beside(),
    ) -> Manifest:
        """Write one bundle; `cut` is (split, edge depth)."""
        drafter = beside.drafter
        self._prepare(folder)
        sources = self.opened.sources(parts.exits, drafter)
        self._write_weights(folder, role, parts, kind, sources=sources)
        known = self.opened.exits.infos if drafter is None else drafter.infos
        infos = {layer: known.get(layer, ExitInfo()) for layer in parts.exits}
        manifest = Manifest(
            role=role,
            model=self.opened.folder.resolve().name,
            architecture=self.opened.source.architecture,
            fingerprint=self.fingerprint,
            span=parts.span,
            split=cut[0],
            edge_depth=cut[1],
            compute_format=kind,
            protocol_version=self.protocol_version,
            exits=tuple(ManifestExit.of(layer, info) for layer, info in infos.items()),
            shape=ModelShape.of(self.opened.source.config),
            drafter=None if drafter is None else drafter.acceptance,
            exits_sha256=beside.exits_sha256,
        )
        for agreement in beside.agreements:
            agreement.write(folder / file_of(text=agreement.text))
        manifest.write(folder)
        return manifest

    def _prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (
            folder / FILE,
            folder / MAP_FILE,
            *folder.glob("agreement*.json"),
            *folder.glob("*.safetensors"),
        ):
            stale.unlink(missing_ok=True)
        for name in _COMPANIONS:
            (folder / name).unlink(missing_ok=True)
            if (self.opened.folder / name).exists():
                shutil.copyfile(self.opened.folder / name, folder / name)

    def _write_weights(
        self,
        folder: Path,
        role: Role,
        parts: Parts,
        kind: Weights,
        *,
        sources: Mapping[str, StoredTensor],
    ) -> None:
        network = build(self.opened.source, parts, sources)
        files: dict[str, list[str]] = {}
        for name in network.expected():
            files.setdefault(_file_of(name), []).append(name)
        quanto_map: dict[str, Any] = {}
        for count, (file, names) in enumerate(files.items(), start=1):
            tensors = {name: _read_for(sources[name], kind) for name in names}
            if is_quantized(kind) and names[0].startswith(LAYERS):
                tensors, mapped = _quantized(network, tensors, kind)
                quanto_map.update(mapped)
            save_file(tensors, folder / file)
            # safetensors writes for its owner alone; volumes are mounted by others.
            (folder / file).chmod(0o644)
            if self.progress is not None:
                self.progress(role, count, len(files))
        if is_quantized(kind):
            (folder / MAP_FILE).write_text(json.dumps(quanto_map, indent=2) + "\n")


def _checked_fingerprint(opened: Checkpoint, progress: Progress | None) -> str:
    found = fingerprint(opened.folder, opened.tensors, progress)
    if opened.exits.model_fingerprint not in (None, found):
        raise BadModel(f"the exits beside {opened.folder} were trained on another model")
    return found


def _checked_drafter(opened: Checkpoint, found: str, split: int, edge_depth: int) -> Drafter | None:
    drafter = opened.drafter(split, edge_depth)
    if drafter is not None and drafter.model_fingerprint != found:
        raise BadModel(
            f"the drafter {split}-{edge_depth} beside {opened.folder} was trained for another model"
        )
    return drafter


def _checked(opened: Checkpoint, found: str, cut: tuple[int, int], *, use_drafter: bool) -> _Beside:
    drafter = _checked_drafter(opened, found, *cut) if use_drafter else None
    of = None if drafter is None else cut
    there = [read_agreement_beside(opened.folder, found, of, text) for text in TEXTS]
    # That of other exits is as good as none.
    fitting = (each for each in there if each is not None and each.layers == sorted({*cut}))
    return _Beside(drafter, tuple(fitting), exits_sha256(opened.folder, of))


def _weights(name: str) -> Weights:
    for known in WEIGHTS:
        if name == known:
            return known
    raise ValueError(f"weights {name!r} are none of {', '.join(WEIGHTS)}")


def _layer_of(name: str) -> tuple[str, str] | None:
    """Split "model.layers.3.mlp.up_proj.weight" into "3" and the rest; None for other tensors."""
    if not name.startswith(LAYERS):
        return None
    number, _, rest = name.removeprefix(LAYERS).partition(".")
    return number, rest


def _file_of(name: str) -> str:
    layer = _layer_of(name)
    if layer is not None:
        return f"layer-{int(layer[0]):04}.safetensors"
    return "exits.safetensors" if name.startswith("exits.") else f"{name}.safetensors"


def _read_for(tensor: StoredTensor, kind: Weights) -> Tensor:
    """Read a tensor in the format's dtype, or as stored where that is narrower and loses
    nothing.
    """
    wanted = torch.float32 if kind == "fp32" else DTYPE
    lossless = torch.promote_types(tensor.dtype, wanted) == wanted
    return tensor.read(tensor.dtype if lossless and not is_quantized(kind) else wanted)


def _quantized(
    network: Network, tensors: Mapping[str, Tensor], kind: Weights
) -> tuple[dict[str, Tensor], Map]:
    """Quantize the layer whose tensors these are; returns tensors and map under full names."""
    for name, tensor in tensors.items():
        network.assign(name, tensor)
    located = _layer_of(next(iter(tensors)))
    assert located is not None
    number = located[0]
    inner, mapped = quantize_layer(network.model.layers[number], kind)
    network.model.layers[number] = torch.nn.Identity()  # lets its memory go
    prefix = f"{LAYERS}{number}."
    return (
        {prefix + name: tensor.contiguous() for name, tensor in inner.items()},
        {prefix + name: kinds for name, kinds in mapped.items()},
    )
