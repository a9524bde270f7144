"""Exits that lie beside a checkpoint: their weights, thresholds and measured agreement.

Reads `exits.json` and `exits.safetensors`; computes nothing and does not know the decision rule.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import BadModel
from shared.model.checkpoint import StoredTensor, read_header
from shared.model.families import read_json
from shared.model.network import FINAL_NORM, TranslatorShape

INDEX = "exits.json"
WEIGHTS = "exits.safetensors"
FORMAT = 1
# What CE-CoLLM uses everywhere (arXiv 2411.02829), for an exit nobody has tuned.
UNTUNED_THRESHOLD = 0.8
_TRANSLATORS = (("down.weight", "up.weight"), ("weight", "bias"))


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
    _account(folder / WEIGHTS, infos, set(tensors))
    return TrainedExits(infos, tensors, content.get("model_fingerprint"))


def _account(path: Path, layers: Iterable[int], names: set[str]) -> None:
    """Refuse a missing or unknown tensor: each exit has a norm, and both or none of a
    translator's.
    """
    expected: set[str] = set()
    for layer in layers:
        expected.add(f"exits.{layer}.norm.weight")
        pairs = [{f"exits.{layer}.translator.{name}" for name in pair} for pair in _TRANSLATORS]
        used = [pair for pair in pairs if pair & names]
        if len(used) > 1:
            raise BadModel(f"{path} holds two translators of exit {layer}")
        expected.update(*used)
    for name in sorted(names ^ expected):
        raise BadModel(f"{path} {'holds unknown' if name in names else 'lacks'} {name}")


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


def translators(tensors: Mapping[str, StoredTensor]) -> dict[int, TranslatorShape]:
    """Per exit, the translator that its tensors (under names `exits.<layer>.…`) make up.

    Raises:
        BadModel: a name names no layer.
    """
    parts: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        number, _, part = name.removeprefix("exits.").partition(".")
        parts.setdefault(number, {})[part] = tensor
    return {_layer(number): _translator(held) for number, held in parts.items()}


def _translator(held: Mapping[str, StoredTensor]) -> TranslatorShape:
    down = held.get("translator.down.weight")
    rank = None if down is None else down.shape[0]
    return TranslatorShape(rank=rank, affine="translator.weight" in held)


def _layer(number: str) -> int:
    if not number.isdecimal():
        raise BadModel(f"exits are named by their layer, not {number!r}")
    return int(number)
