"""Tensors in safetensors files, found by name and read one at a time.

Files are read at the offsets their headers state, not mapped, so that memory holds what was asked
for and nothing else. Knows names, shapes and bytes; what the tensors mean is the caller's affair.
Format: huggingface.co/docs/safetensors, "Format".
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import BadModel
from shared.model.families import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PIECE_BYTES = 8 << 20
MAX_HEADER_BYTES = 100_000_000  # the format's own limit

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `nbytes` bytes at `offset` of `path`, row-major."""

    name: str
    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def pieces(self) -> Iterator[bytes]:
        """Its bytes in order, a few megabytes at a time."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.nbytes
            while left:
                piece = file.read(min(left, PIECE_BYTES))
                if not piece:
                    raise BadModel(f"{self.path} ends inside tensor {self.name}")
                left -= len(piece)
                yield piece

    def read(self, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Tensor:
        """Read it as `dtype` (None: as stored) onto `device`.

        The peak is the result and one piece, whatever the conversion.

        Raises:
            BadModel: the file is too short.
        """
        result = torch.empty(self.shape, dtype=dtype or self.dtype, device=device)
        direct = result.device.type == "cpu" and result.dtype == self.dtype
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for part in result.view(-1).split(PIECE_BYTES // self.dtype.itemsize):
                piece = part if direct else torch.empty(part.shape, dtype=self.dtype)
                self._fill(file, piece)
                if not direct:
                    part.copy_(piece)
        return result

    def _fill(self, file: BufferedReader, target: Tensor) -> None:
        """Fill a contiguous CPU tensor from the file's position on."""
        view: Any = target.view(torch.uint8).numpy()  # a buffer, which its stubs do not say
        if file.readinto(view) != len(view):
            raise BadModel(f"{self.path} ends inside tensor {self.name}")


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read which tensors a safetensors file holds.

    Raises:
        BadModel: it is missing, truncated, or not such a file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
                raise BadModel(f"{path} is truncated or no safetensors file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        tensors = {name: _stored(path, name, entry, start) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"{path} is not a readable safetensors file: {error!r}") from error
    end = max((tensor.offset + tensor.nbytes for tensor in tensors.values()), default=start)
    if end != size:
        raise BadModel(f"{path} is truncated or padded: {size} bytes where {end} are stated")
    return tensors


def read_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """Find every tensor of a Hugging Face checkpoint, in one file or in shards.

    Raises:
        BadModel: a file is missing or broken, or index and shards disagree (naming the tensor).
    """
    if not (folder / INDEX).exists():
        return read_header(folder / SINGLE)
    listed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict):
        raise BadModel(f"{folder / INDEX} has no weight_map")
    shards = sorted({str(shard) for shard in listed.values()})
    if any(Path(shard).name != shard for shard in shards):
        raise BadModel(f"{folder / INDEX} names files outside its folder")
    tensors = join(read_header(folder / shard) for shard in shards)
    for name in sorted(tensors.keys() ^ listed.keys()):
        held = "its shards" if name in tensors else "its index"
        raise BadModel(f"tensor {name} is only in {held}: {folder}")
    return tensors


def join(files: Iterable[Mapping[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """Put the tensors of several files together.

    Raises:
        BadModel: two files hold a tensor of the same name.
    """
    tensors: dict[str, StoredTensor] = {}
    for held in files:
        twice = sorted(tensors.keys() & held.keys())
        if twice:
            raise BadModel(f"tensor {twice[0]} is in {tensors[twice[0]].path} and another file")
        tensors.update(held)
    return tensors


def _stored(path: Path, name: str, entry: Mapping[str, Any], start: int) -> StoredTensor:
    if entry["dtype"] not in DTYPES:
        raise BadModel(f"tensor {name} in {path} has dtype {entry['dtype']}, which is not known")
    dtype = DTYPES[entry["dtype"]]
    shape = tuple(int(size) for size in entry["shape"])
    begin, end = entry["data_offsets"]
    if end - begin != math.prod(shape) * dtype.itemsize or begin < 0:
        raise BadModel(f"tensor {name} in {path} has {end - begin} bytes, which do not fit {shape}")
    return StoredTensor(name, path, dtype, shape, start + begin, end - begin)
