"""Exits that lie beside a checkpoint: their weights, thresholds and measured agreement.

Reads `exits.json` and `exits.safetensors`; computes nothing and does not know the decision rule.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import BadModel
from shared.model.checkpoint import StoredTensor, read_header
from shared.model.families import Source, read_json
from shared.model.network import FINAL_NORM, ExitHead, exit_head

INDEX = "exits.json"
WEIGHTS = "exits.safetensors"
FORMAT = 1
# What CE-CoLLM uses everywhere (arXiv 2411.02829), for an exit nobody has tuned.
UNTUNED_THRESHOLD = 0.8


@dataclass(frozen=True, slots=True)
class ExitInfo:
    """When a token may stay at an exit, and the share of kept tokens that the end of the model
    would have chosen too (None where that was not measured).
    """

    threshold: float = UNTUNED_THRESHOLD
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class TrainedExits:
    """The exits found beside a checkpoint, by layer; none is an ordinary case."""

    infos: Mapping[int, ExitInfo] = field(default_factory=dict)
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    model_fingerprint: str | None = None

    def info(self, layer: int) -> ExitInfo:
        """What is known of the exit in front of `layer`."""
        return self.infos.get(layer, ExitInfo())

    def names(self, layer: int) -> list[str]:
        """Names of the tensors of one exit."""
        return [name for name in self.tensors if name.startswith(f"exits.{layer}.")]

    def sources(
        self, layers: Iterable[int], stored: Mapping[str, StoredTensor]
    ) -> dict[str, StoredTensor]:
        """Where each exit's tensors are read; one without training has the final norm (a logit
        lens).
        """
        found = {}
        for layer in layers:
            for name in self.names(layer):
                found[name] = self.tensors[name]
            found.setdefault(f"exits.{layer}.norm.weight", stored[FINAL_NORM])
        return found


def read_exits(folder: Path) -> TrainedExits:
    """Read the exits beside a checkpoint.

    Raises:
        BadModel: one of the two files is missing or broken, or they name different layers.
    """
    if not (folder / INDEX).exists() and not (folder / WEIGHTS).exists():
        return TrainedExits()
    content = read_json(folder / INDEX)
    if content.get("format") != FORMAT:
        raise BadModel(f"{folder / INDEX} is not of format {FORMAT}")
    infos = read_infos(content.get("exits"), folder / INDEX)
    tensors = read_header(folder / WEIGHTS)
    for name in tensors:
        number = name.split(".")[1] if name.startswith("exits.") else ""
        if number not in map(str, infos):
            raise BadModel(f"{folder / WEIGHTS} holds {name}, whose exit {INDEX} does not name")
    for layer in infos:
        if f"exits.{layer}.norm.weight" not in tensors:
            raise BadModel(f"{folder / WEIGHTS} lacks exits.{layer}.norm.weight")
    return TrainedExits(infos, tensors, content.get("model_fingerprint"))


def read_infos(listed: Any, path: Path) -> dict[int, ExitInfo]:
    """Read a list of {"layer", "threshold", "agreement"}.

    Raises:
        BadModel: it has another form.
    """
    try:
        return {
            int(entry["layer"]): ExitInfo(
                threshold=float(entry["threshold"]),
                agreement=None if entry["agreement"] is None else float(entry["agreement"]),
            )
            for entry in listed
        }
    except (TypeError, KeyError, ValueError) as error:
        raise BadModel(f"{path} lists its exits in another form: {error!r}") from error


def exit_heads(source: Source, tensors: Mapping[str, StoredTensor]) -> dict[int, ExitHead]:
    """Build on the meta device the exits that `tensors` (names `exits.<layer>.…`) describe."""
    heads = {}
    for layer in sorted({int(name.split(".")[1]) for name in tensors}):
        down = tensors.get(f"exits.{layer}.translator.down.weight")
        affine = f"exits.{layer}.translator.weight" in tensors
        rank = None if down is None else down.shape[0]
        heads[layer] = exit_head(source, rank=rank, affine=affine)
    return heads
