"""Where in a frame each field of its message stands, to the byte."""

from collections.abc import Iterator

import msgpack

HEADER = {
    "magic": range(2),
    "version": range(2, 3),
    "kind": range(3, 4),
    "length": range(4, 8),
}
_HEADER_BYTES, _CHECKSUM_BYTES = 8, 4


def fields_of(frame: bytes) -> dict[str, range]:
    """The bytes of every field, header and checksum included, by its name: `opening.sampling.seed`.

    A list counts as one field.
    """
    payload = frame[_HEADER_BYTES:-_CHECKSUM_BYTES]
    found = {
        name: range(_HEADER_BYTES + each.start, _HEADER_BYTES + each.stop)
        for name, each in _walk(payload)
    }
    end = len(frame)
    return HEADER | found | {"checksum": range(end - _CHECKSUM_BYTES, end)}


def _walk(payload: bytes) -> Iterator[tuple[str, range]]:
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    unpacker.feed(payload)
    yield from _walk_map(unpacker, payload, "")


def _walk_map(
    unpacker: msgpack.Unpacker, payload: bytes, prefix: str
) -> Iterator[tuple[str, range]]:
    for _ in range(unpacker.read_map_header()):
        name = f"{prefix}{unpacker.unpack()}"
        start = unpacker.tell()
        if _is_map(payload[start]):
            yield from _walk_map(unpacker, payload, f"{name}.")
        else:
            unpacker.skip()
            yield name, range(start, unpacker.tell())


def _is_map(first: int) -> bool:
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)
