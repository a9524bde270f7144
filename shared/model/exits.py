"""What is trained for the edge and lies beside a checkpoint: its exits, and drafters for one cut.

Exits (`exits.json`, `exits.safetensors`) read the whole model's own states. A drafter
(`drafter-<split>-<edge depth>.json` and `.safetensors`) replaces what the edge holds above the
split, whose states nobody else sees: layers [split, edge depth) and the exit in front of the edge
depth. Reads files; computes nothing and does not know the decision rule.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import BadModel
from shared.exits.calibration import Agreement, Text, file_of, read_agreement
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
class GapTable:
    """How often an exit's best, second, third ... candidate is the full model's token, by the gap
    between the perturbed scores of its two best.

    `gaps` are rising borders; row n of `ranks` holds for gaps from border n - 1 up to, but not
    including, border n. Max-probability says less once the temperature is above 0.
    """

    gaps: tuple[float, ...]
    ranks: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.gaps, self.gaps[1:], strict=False))
        shares = [share for row in self.ranks for share in row]
        if len(self.ranks) != len(self.gaps) + 1 or not rising:
            raise ValueError(f"{len(self.ranks)} rows for the borders {self.gaps}")
        if not all(0 <= share <= 1 for share in shares) or len(set(map(len, self.ranks))) != 1:
            raise ValueError("rows are shares, and all as long")

    def chances(self, gap: float) -> tuple[float, ...]:
        """The share of each candidate, the best first, where the gap is `gap`."""
        return self.ranks[bisect_right(self.gaps, gap)]


# By how the tokens were chosen: "greedy" or "sampled".
Calibration = Mapping[str, GapTable]


@dataclass(frozen=True, slots=True)
class ExitInfo:
    """When a token may stay at an exit, the share of kept tokens that the end of the model
    would have chosen too (None where that was not measured), and how sure its drafts are (empty
    where that was not measured).
    """

    threshold: float = UNTUNED_THRESHOLD
    agreement: float | None = None
    calibration: Calibration = field(default_factory=dict)


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
    """Read a list of {"layer", "threshold", "agreement"}, each with or without "calibration".

    Raises:
        BadModel: it has another form.
    """
    try:
        return {
            int(entry["layer"]): ExitInfo(
                threshold=float(entry["threshold"]),
                agreement=None if entry["agreement"] is None else float(entry["agreement"]),
                calibration=_calibration(entry.get("calibration", {})),
            )
            for entry in listed
        }
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise BadModel(f"{path} lists its exits in another form: {error!r}") from error


def _calibration(content: Mapping[str, Any]) -> Calibration:
    return {
        kind: GapTable(
            tuple(float(gap) for gap in table["gaps"]),
            tuple(tuple(float(share) for share in row) for row in table["ranks"]),
        )
        for kind, table in content.items()
    }


@dataclass(frozen=True, slots=True)
class Drafter:
    """What the edge holds above one split in place of the whole model's layers.

    `tensors` have the names they replace: those of layers [split, edge_depth) and of the exit in
    front of edge_depth. `infos` are both exits', measured with it; `acceptance` is the share of
    its drafts that the full model would have chosen, by how tokens were chosen.
    """

    split: int
    edge_depth: int
    model_fingerprint: str
    infos: Mapping[int, ExitInfo]
    acceptance: Mapping[str, float]
    tensors: Mapping[str, StoredTensor]

    def replace(self, sources: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
        """The sources of an edge's tensors with the drafter's in their places."""
        own = f"exits.{self.edge_depth}."
        kept = {name: tensor for name, tensor in sources.items() if not name.startswith(own)}
        return {**kept, **self.tensors}


def drafter_files(folder: Path, split: int, edge_depth: int) -> tuple[Path, Path]:
    """Where a drafter's JSON and its weights lie."""
    stem = f"drafter-{split}-{edge_depth}"
    return folder / f"{stem}.json", folder / f"{stem}.safetensors"


def exits_sha256(folder: Path, cut: tuple[int, int] | None = None) -> str | None:
    """Hex SHA-256 of the weights of a checkpoint's exits, followed for a `cut` (split, edge depth)
    by those of its drafter, which reads through the exit at the split; None where there are none.
    """
    paths = [folder / WEIGHTS, *([] if cut is None else [drafter_files(folder, *cut)[1]])]
    found = [path for path in paths if path.exists()]
    digest = hashlib.sha256()
    for path in found:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if found else None


def read_agreement_beside(
    folder: Path, fingerprint: str, cut: tuple[int, int] | None = None, text: Text = "greedy"
) -> Agreement | None:
    """Read the calibration of a checkpoint's exits, or of its drafter for a `cut`, made on one kind
    of text; None where there is none.

    Raises:
        BadModel: it is broken, or was measured on a model of another fingerprint or on other exits.
    """
    path = folder / file_of(cut, text)
    agreement = read_agreement(path)
    if agreement is None:
        return None
    if agreement.model_fingerprint != fingerprint:
        raise BadModel(f"{path} was measured on another model: calibrate anew, or remove it")
    if agreement.exits_sha256 != exits_sha256(folder, cut):
        raise BadModel(f"{path} was measured on other exits: calibrate anew, or remove it")
    return agreement


def read_drafter(folder: Path, split: int, edge_depth: int) -> Drafter | None:
    """Read the drafter for exactly this cut; None where there is none, an ordinary case.

    Raises:
        BadModel: one of its two files is missing or broken, or says it is for another cut.
    """
    index, weights = drafter_files(folder, split, edge_depth)
    if not index.exists() and not weights.exists():
        return None
    content = read_json(index)
    if content.get("format") != FORMAT:
        raise BadModel(f"{index} is not of format {FORMAT}")
    if (content.get("split"), content.get("edge_depth")) != (split, edge_depth):
        raise BadModel(f"{index} is for another cut than its name says")
    infos = read_infos(content.get("exits"), index)
    if infos.keys() != {split, edge_depth}:
        raise BadModel(f"{index} names the exits {sorted(infos)}, not those of its cut")
    tensors = read_header(weights)
    heads = {name for name in tensors if name.startswith("exits.")}
    _account(weights, [edge_depth], heads)
    try:
        shares = {kind: float(share) for kind, share in content["acceptance"]["after"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadModel(f"{index} says nothing of what is accepted: {error!r}") from error
    fingerprint = str(content.get("model_fingerprint"))
    return Drafter(split, edge_depth, fingerprint, infos, shares, tensors)


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
