"""Messages to bytes and back.

A frame is `"TD"`, version (u8), kind (u8), payload length (u32), the payload (one msgpack map), and
CRC-32 (u32) of every byte before it, little-endian. A stream is frames end to end. Sizes are
bounded before anything is decoded; whatever is wrong raises `Malformed` or `TooLarge` with a code
that says which.
"""

import struct
import zlib
from dataclasses import fields
from typing import Any

import msgpack
from pydantic import TypeAdapter, ValidationError

from shared.errors import Malformed, TooLarge
from shared.protocol.bounds import require_bounded
from shared.protocol.messages import (
    Block,
    Close,
    Fault,
    Message,
    Opening,
    Report,
)
from shared.protocol.version import (
    MAX_BLOCK_TOKENS,
    MAX_BLOCKS,
    MAX_FIELDS,
    PROTOCOL_VERSION,
)

MAGIC = b"TD"
_HEADER = struct.Struct("<2sBBI")
_TRAILER = struct.Struct("<I")
OVERHEAD_BYTES = _HEADER.size + _TRAILER.size

# What a payload of so few bytes claims costs less than to look at it twice: at worst a thousand
# arrays inside each other, of a thousand values each.
_SMALL = 1024

_KINDS: dict[int, TypeAdapter[Any]] = {
    1: TypeAdapter(Block),
    2: TypeAdapter(Report),
    3: TypeAdapter(Close),
    4: TypeAdapter(Fault),
}
_NAMES: dict[type, tuple[str, ...]] = {}
_KIND_OF: dict[type, int] = {Block: 1, Report: 2, Close: 3, Fault: 4}


def encode(message: Message) -> bytes:
    """Return the frame of `message`."""
    payload = pack(message)
    framed = _HEADER.pack(MAGIC, PROTOCOL_VERSION, _KIND_OF[type(message)], len(payload)) + payload
    return framed + _TRAILER.pack(zlib.crc32(framed))


def canonical(opening: Opening) -> bytes:
    """Return the bytes of an opening that both sides hash into the root digest."""
    return pack(opening)


def frame_length(header: bytes, *, limit: int) -> int:
    """Return the length of the whole frame that starts with these 8 bytes; refuses one over
    `limit` bytes, of another version or of no known kind.
    """
    total = _length(header, limit=limit)
    _require_ours(header)
    return total


def decode(frame: bytes, *, limit: int) -> Message:
    """Return the message in `frame`, which must be exactly one frame of at most `limit` bytes.

    The checksum is looked at before version and kind: header and trailer are alike in all versions,
    and a damaged byte is not to pass for a peer of another version.

    Raises:
        Malformed: codes `truncated`, `malformed`, `protocol_version`, `checksum`, `field`.
        TooLarge: over the limit.
    """
    total = _length(frame, limit=limit)
    if len(frame) < total:
        raise Malformed(f"a frame of {total} bytes was cut at {len(frame)}", code="truncated")
    if len(frame) > total:
        raise Malformed(f"{len(frame) - total} bytes follow the frame", code="malformed")
    (checksum,) = _TRAILER.unpack_from(frame, total - _TRAILER.size)
    if zlib.crc32(memoryview(frame)[: total - _TRAILER.size]) != checksum:
        raise Malformed("the frame's checksum does not match its bytes", code="checksum")
    _require_ours(frame)
    fields = unpack(frame[_HEADER.size : total - _TRAILER.size])
    try:
        message: Message = _KINDS[frame[3]].validate_python(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "message"
        raise Malformed(f"{name}: {first['msg']}", code="field", field=name) from error
    return message


def decode_blocks(body: bytes, *, limit: int) -> list[Block]:
    """Decode a body of one or more frames end to end, all of them blocks of one session.

    Raises:
        Malformed, TooLarge: as `decode`; also for no block, too many, or several sessions.
    """
    blocks: list[Block] = []
    view = memoryview(body)
    while view or not blocks:
        length = _length(bytes(view[: _HEADER.size]), limit=limit)
        message = decode(bytes(view[:length]), limit=limit)
        if not isinstance(message, Block):
            raise Malformed(f"a block was expected, not a {type(message).__name__.lower()}")
        blocks.append(message)
        view = view[length:]
        if len(blocks) > MAX_BLOCKS:
            raise Malformed(f"a body carries at most {MAX_BLOCKS} blocks")
    if len({block.session for block in blocks}) > 1:
        raise Malformed("the blocks of a body belong to one session")
    return blocks


def _length(header: bytes, *, limit: int) -> int:
    if len(header) < _HEADER.size:
        raise Malformed(f"a frame of {len(header)} bytes has no complete header", code="truncated")
    magic, _, _, length = _HEADER.unpack_from(header)
    if magic != MAGIC:
        raise Malformed("the bytes are no Tandem frame", code="malformed")
    total: int = length + OVERHEAD_BYTES
    if total > limit:
        raise TooLarge(f"a frame of {total} bytes is over the limit of {limit} bytes")
    return total


def _require_ours(header: bytes) -> None:
    _, version, kind, _ = _HEADER.unpack_from(header)
    if version != PROTOCOL_VERSION:
        raise Malformed(
            f"protocol version {version} is not served; this side speaks {PROTOCOL_VERSION}",
            code="protocol_version",
        )
    if kind not in _KINDS:
        raise Malformed(f"unknown kind of message {kind}", code="malformed")


def pack(value: object) -> bytes:
    """Return a dataclass as a msgpack map of its fields in order, and so on downwards.
    `dataclasses.asdict` would copy every value first: 30 us a message.
    """
    packed: bytes = msgpack.packb(_map(value), default=_map, use_bin_type=True)
    return packed


def unpack(payload: bytes) -> dict[str, Any]:
    """Return the map that `pack` made, its arrays as tuples; its values are yet to be validated.

    Raises:
        Malformed: the bytes are no such map, name a field twice, or claim more than one holds.
    """
    if len(payload) > _SMALL:
        require_bounded(payload)
    try:
        found = msgpack.unpackb(
            payload,
            use_list=False,
            raw=False,
            strict_map_key=True,
            max_array_len=min(len(payload), MAX_BLOCK_TOKENS),
            max_map_len=MAX_FIELDS,
            max_ext_len=0,
            ext_hook=_no_extension,
            object_pairs_hook=_without_doubles,
        )
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise Malformed(f"the payload is no msgpack map: {error}", code="malformed") from error
    if not isinstance(found, dict):
        raise Malformed("the payload is no msgpack map", code="malformed")
    return found


def _without_doubles(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Two readers could take a field that is there twice for two different things."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field is there twice")
    return found


def _no_extension(code: int, content: bytes) -> None:
    """`max_ext_len` lets those through that hold nothing."""
    raise ValueError(f"extension type {code} of {len(content)} bytes")


def _map(value: Any) -> dict[str, object]:
    kind = type(value)
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(field.name for field in fields(kind))
    return {name: getattr(value, name) for name in names}
