"""Hidden states to wire blocks and back: the only module that knows both tensors and the protocol.

Codecs: `fp32` (exact), `fp16`, and `int8`: blocks of 64 values along a row share one fp16 scale
    (absmax / 127), as in LLM weight formats such as llama.cpp's Q8_0 (there blocks of 32). Every
    row is coded by itself, so a run of rows of a block is a slice of its bytes and a token's coded
    state does not depend on its neighbours.
"""

import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shared.errors import CodecRange, ComputeError, Malformed
from shared.protocol.messages import Codec, HiddenBlock

INT8_BLOCK = 64

if sys.byteorder != "little":  # pragma: no cover - every supported machine is little-endian
    raise ImportError("hidden states travel little-endian; this machine is not")


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Bytes one row of `hidden` values takes in a codec: in the payload and in the scales."""

    payload: int
    scales: int

    @classmethod
    def of(cls, codec: Codec, hidden: int) -> "RowLayout":
        """The layout of a row of `hidden` values."""
        if codec == "int8":
            return cls(hidden, 2 * _blocks(hidden))
        return cls(hidden * (4 if codec == "fp32" else 2), 0)


@dataclass(slots=True)
class CodedRows:
    """The log of a session's coded states, exactly as first coded: rows of positions [0, end),
    sliceable by position.

    The edge keeps one to resend from, the cloud one to rebuild KV from.
    """

    codec: Codec
    hidden: int
    end: int = 0
    _payload: bytearray = field(default_factory=bytearray)
    _scales: bytearray = field(default_factory=bytearray)

    def append(self, block: HiddenBlock, skip: int = 0) -> None:
        """Add the rows of `block` after its first `skip`."""
        layout = RowLayout.of(self.codec, self.hidden)
        self._payload += memoryview(block.payload)[skip * layout.payload :]
        self._scales += memoryview(block.scales)[skip * layout.scales :]
        self.end += block.shape[0] - skip

    def append_row(self, block: HiddenBlock, row: int) -> None:
        """Add one row of `block`."""
        payload, scales = row_of(block, row)
        self._payload += payload
        self._scales += scales
        self.end += 1

    def truncate(self, end: int) -> None:
        """Drop the rows at positions >= `end`."""
        if end < self.end:
            layout = RowLayout.of(self.codec, self.hidden)
            del self._payload[end * layout.payload :]
            del self._scales[end * layout.scales :]
            self.end = end

    def slice(self, start: int, stop: int) -> HiddenBlock:
        """Return rows [start, stop) as one block, byte for byte as they were coded."""
        layout = RowLayout.of(self.codec, self.hidden)
        payload = bytes(self._payload[start * layout.payload : stop * layout.payload])
        scales = bytes(self._scales[start * layout.scales : stop * layout.scales])
        return _block(self.codec, stop - start, self.hidden, payload=payload, scales=scales)

    def agreeing(self, other: "CodedRows") -> int:
        """Return how many rows from the first on both hold, byte for byte the same."""
        layout = RowLayout.of(self.codec, self.hidden)
        rows = min(self.end, other.end)
        for mine, theirs, width in (
            (self._payload, other._payload, layout.payload),
            (self._scales, other._scales, layout.scales),
        ):
            size = rows * width
            if memoryview(mine)[:size] != memoryview(theirs)[:size]:
                differing = np.frombuffer(mine, np.uint8, size) != np.frombuffer(
                    theirs, np.uint8, size
                )
                rows = int(differing.argmax()) // width
        return rows

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return len(self._payload) + len(self._scales)


def encode(states: Tensor, codec: Codec) -> HiddenBlock:
    """Code hidden states [T, H] of any floating dtype and device.

    Raises:
        ComputeError: a value is not finite, or beyond the codec's range.
    """
    if not bool(torch.isfinite(states).all()):
        raise ComputeError("a hidden state is not finite")
    tokens, hidden = states.shape
    scales = b""
    match codec:
        case "fp32":
            payload = _bytes(_within_range(states.to(torch.float32), codec))
        case "fp16":
            payload = _bytes(_within_range(states.to(torch.float16), codec))
        case "int8":
            payload, scales = _encode_int8(states.to(torch.float32))
    return _block(codec, tokens, hidden, payload=payload, scales=scales)


def row_of(block: HiddenBlock, row: int) -> tuple[memoryview, memoryview]:
    """The payload and the scales of one row of `block`, as they were coded."""
    layout = RowLayout.of(block.codec, block.shape[1])
    return (
        memoryview(block.payload)[row * layout.payload : (row + 1) * layout.payload],
        memoryview(block.scales)[row * layout.scales : (row + 1) * layout.scales],
    )


def join(rows: Sequence[tuple[HiddenBlock, int]]) -> HiddenBlock:
    """Make one block of single rows (block, row) of blocks of one codec and width; no value is
    coded again.
    """
    first = rows[0][0]
    parts = [row_of(block, row) for block, row in rows]
    payload = b"".join(payload for payload, _ in parts)
    scales = b"".join(scales for _, scales in parts)
    return _block(first.codec, len(rows), first.shape[1], payload=payload, scales=scales)


def validate(block: HiddenBlock, *, hidden: int) -> None:
    """Refuse a block whose bytes do not fit what it says, before anything is allocated for it.

    Raises:
        Malformed: codes `shape`, `checksum`, `scales` (not finite or negative) and `values` (not
            finite).
    """
    tokens, width = block.shape
    if width != hidden:
        raise Malformed(f"states of width {width}; this model's is {hidden}", code="shape")
    layout = RowLayout.of(block.codec, width)
    expected = (tokens * layout.payload, tokens * layout.scales)
    if (len(block.payload), len(block.scales)) != expected:
        raise Malformed(
            f"{tokens} states in {block.codec} take {expected[0]}+{expected[1]} bytes, "
            f"not {len(block.payload)}+{len(block.scales)}",
            code="shape",
        )
    if zlib.crc32(block.scales, zlib.crc32(block.payload)) != block.checksum:
        raise Malformed("the states' checksum does not match their bytes", code="checksum")
    _validate_numbers(block)


def decode(block: HiddenBlock, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return the states [T, H] of a validated block."""
    tokens, hidden = block.shape
    rows: NDArray[Any]
    match block.codec:
        case "fp32":
            rows = np.frombuffer(block.payload, np.float32).reshape(tokens, hidden).copy()
        case "fp16":
            rows = np.frombuffer(block.payload, np.float16).reshape(tokens, hidden).copy()
        case "int8":
            rows = _decode_int8(block)
    return torch.from_numpy(rows).to(device=device, dtype=dtype)


def round_trip(states: Tensor, codec: Codec) -> Tensor:
    """Return `states` [T, H] as the other side will see them, in their own dtype and device."""
    return decode(encode(states, codec), dtype=states.dtype, device=states.device)


def _block(codec: Codec, tokens: int, hidden: int, *, payload: bytes, scales: bytes) -> HiddenBlock:
    return HiddenBlock(
        codec=codec,
        shape=(tokens, hidden),
        payload=payload,
        scales=scales,
        checksum=zlib.crc32(scales, zlib.crc32(payload)),
    )


def _blocks(hidden: int) -> int:
    return -(-hidden // INT8_BLOCK)


def _bytes(rows: Tensor) -> bytes:
    return rows.contiguous().cpu().numpy().tobytes()


def _within_range(rows: Tensor, codec: Codec) -> Tensor:
    if not bool(torch.isfinite(rows).all()):
        raise CodecRange(
            f"a hidden state is beyond the range of codec {codec}; fp32 carries every state",
            field="parameters.codec",
        )
    return rows


def _encode_int8(states: Tensor) -> tuple[bytes, bytes]:
    tokens, hidden = states.shape
    padded = functional.pad(states, (0, -hidden % INT8_BLOCK))
    blocks = padded.view(tokens, _blocks(hidden), INT8_BLOCK)
    scales = _within_range((blocks.abs().amax(-1) / 127).to(torch.float16), "int8")
    # Divide by the scale as it travels, so that rounding the scale does not add to the error.
    exact = scales.float().clamp_min(torch.finfo(torch.float16).tiny).unsqueeze(-1)
    values = (blocks / exact).round().clamp(-127, 127).to(torch.int8)
    return _bytes(values.view(tokens, -1)[:, :hidden]), _bytes(scales)


def _decode_int8(block: HiddenBlock) -> NDArray[np.float32]:
    tokens, hidden = block.shape
    values = np.frombuffer(block.payload, np.int8).reshape(tokens, hidden).astype(np.float32)
    scales = np.frombuffer(block.scales, np.float16).reshape(tokens, _blocks(hidden))
    tiny = np.float32(torch.finfo(torch.float16).tiny)
    exact = np.maximum(scales.astype(np.float32), tiny)
    decoded: NDArray[np.float32] = values * np.repeat(exact, INT8_BLOCK, axis=1)[:, :hidden]
    return decoded


def _validate_numbers(block: HiddenBlock) -> None:
    if block.codec == "int8":
        scales = np.frombuffer(block.scales, np.float16)
        if not np.isfinite(scales).all() or (scales < 0).any():
            raise Malformed("a scale is negative or not finite", code="scales")
        return
    kind = np.float32 if block.codec == "fp32" else np.float16
    if not np.isfinite(np.frombuffer(block.payload, kind)).all():
        raise Malformed("a state is not finite", code="values")
