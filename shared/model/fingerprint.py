"""The identity of a whole model: one hash over its configuration and every byte of its weights.

Independent of how the checkpoint is cut into files; knows nothing of spans or bundles.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from shared.model.checkpoint import StoredTensor
from shared.model.families import read_json

# Facts about how a checkpoint was saved, not about the model.
_VOLATILE = frozenset({"transformers_version", "_name_or_path"})

Progress = Callable[[str, int, int], None]


def fingerprint(
    folder: Path, tensors: Mapping[str, StoredTensor], progress: Progress | None = None
) -> str:
    """Hex SHA-256 over `config.json` and, by rising name, each tensor's name, dtype, shape and
    bytes.
    """
    config = {k: v for k, v in read_json(folder / "config.json").items() if k not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for count, (name, tensor) in enumerate(sorted(tensors.items()), start=1):
        digest.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        for piece in tensor.pieces():
            digest.update(piece)
        if progress is not None:
            progress("fingerprint", count, len(tensors))
    return digest.hexdigest()
