"""What a bundle says of itself, and its JSON form.

Read by both services to see whether they fit; knows nothing of tensors.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from shared.errors import BadModel
from shared.model.exits import Calibration, ExitInfo, read_infos
from shared.model.families import read_json
from shared.model.span import LayerSpan, ModelShape

FILE = "manifest.json"
FORMAT = 1

Role = Literal["edge", "cloud"]
Weights = Literal["fp32", "bf16", "int8", "int4"]
ROLES: tuple[Role, ...] = get_args(Role)
WEIGHTS: tuple[Weights, ...] = get_args(Weights)


@dataclass(frozen=True, slots=True)
class ManifestExit:
    """An exit of a bundle: in front of which layer, when a token stays, how often rightly, and how
    sure its drafts are.
    """

    layer: int
    threshold: float
    agreement: float | None
    calibration: Calibration = field(default_factory=dict)

    @classmethod
    def of(cls, layer: int, info: ExitInfo) -> "ManifestExit":
        """What is known of the exit in front of `layer`."""
        return cls(layer, info.threshold, info.agreement, info.calibration)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Identity and extent of a bundle.

    `fingerprint` (hex SHA-256) names the whole source model; two bundles fit each other only if
    theirs are equal. `split` and `edge_depth` belong to the edge and are None in the cloud's.
    `compute_format` says how the weights are kept; int8 and int4 compute in bfloat16.
    `drafter` is there when the edge's layers above the split are a drafter and not the model's own:
    the share of its drafts that the full model would have chosen, by how tokens were chosen.
    `exits_sha256` names the weights of the edge's exits, a drafter's with them.
    """

    role: Role
    model: str
    architecture: str
    fingerprint: str
    span: LayerSpan
    split: int | None
    edge_depth: int | None
    compute_format: Weights
    protocol_version: int
    exits: tuple[ManifestExit, ...]
    shape: ModelShape
    drafter: Mapping[str, float] | None = None
    exits_sha256: str | None = None

    @property
    def depth(self) -> int:
        """Layers of the whole model."""
        return self.span.depth

    def exit_infos(self) -> dict[int, ExitInfo]:
        """Its exits by layer."""
        return {e.layer: ExitInfo(e.threshold, e.agreement, e.calibration) for e in self.exits}

    def require_protocol(self, version: int) -> None:
        """Refuse to be served by a machine that speaks another protocol version.

        Raises:
            BadModel: naming both versions.
        """
        if self.protocol_version != version:
            raise BadModel(
                f"the bundle is of protocol version {self.protocol_version}; "
                f"this service speaks {version}; make it anew with `tandem partition`"
            )

    def write(self, folder: Path) -> None:
        """Write it into a bundle."""
        content = {
            "format": FORMAT,
            **asdict(self),
            "span": [self.span.start, self.span.stop],
            "depth": self.depth,
        }
        (folder / FILE).write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read a bundle's manifest.

        Raises:
            BadModel: it is missing, of another format, or says something impossible.
        """
        path = folder / FILE
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise BadModel(f"{path} has format {content.get('format')!r}; known is {FORMAT}")
        try:
            return cls._parse(content, path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadModel(f"{path} is not a manifest: {error!r}") from error

    @classmethod
    def _parse(cls, content: Mapping[str, Any], path: Path) -> "Manifest":
        if content["role"] not in ROLES or content["compute_format"] not in WEIGHTS:
            raise ValueError(f"role {content['role']}, format {content['compute_format']}")
        start, stop = content["span"]
        exits = read_infos(content["exits"], path)
        return cls(
            role=content["role"],
            model=str(content["model"]),
            architecture=str(content["architecture"]),
            fingerprint=str(content["fingerprint"]),
            span=LayerSpan(start, stop, content["depth"]),
            split=content["split"],
            edge_depth=content["edge_depth"],
            compute_format=content["compute_format"],
            protocol_version=int(content["protocol_version"]),
            exits=tuple(ManifestExit.of(layer, info) for layer, info in exits.items()),
            shape=ModelShape(**content["shape"]),
            drafter=_shares(content.get("drafter")),
            exits_sha256=content.get("exits_sha256"),
        )


def _shares(content: Mapping[str, Any] | None) -> Mapping[str, float] | None:
    return None if content is None else {kind: float(share) for kind, share in content.items()}
