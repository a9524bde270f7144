"""What a msgpack payload claims to hold, added up before anything is made of it.

A decoder makes room for what a header claims: five bytes that announce an array cost a megabyte,
and a thousand of them inside each other a gigabyte. Here headers are only read.
"""

import re

from shared.errors import Malformed
from shared.protocol.version import MAX_ARRAYS, MAX_BLOCK_TOKENS, MAX_FIELDS, MAX_VALUES

# Numbers, nothing, true, false and texts below 32 bytes, one after the other.
_SHORT = b"|".join(re.escape(bytes([0xA0 + size])) + b".{%d}" % size for size in range(32))
_PLAIN = re.compile(
    rb"(?:[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]|[\xcc\xd0].|[\xcd\xd1].{2}|[\xca\xce\xd2].{4}"
    rb"|[\xcb\xcf\xd3].{8}|" + _SHORT + b")*+",
    re.DOTALL,
)
# What follows a header, by header: so many bytes of the length of a text or of bytes, or of the
# number of values of an array or of entries of a map.
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY = {0xDC: 2, 0xDD: 4} | dict.fromkeys(range(0x90, 0xA0), 0)
_MAP = {0xDE: 2, 0xDF: 4} | dict.fromkeys(range(0x80, 0x90), 0)


def require_bounded(payload: bytes) -> None:
    """Refuse a payload that claims more than was received, or more than any message holds, and one
    with a header that no message has: the types of extensions, timestamps among them.

    So what is made of it is at most `MAX_VALUES` values, in at most `MAX_ARRAYS` arrays of up to
    `MAX_BLOCK_TOKENS` and maps of up to `MAX_FIELDS`.

    Raises:
        Malformed: naming the bound.
    """
    at, end = 0, len(payload)
    claimed, arrays = 1, 0
    while (at := _after_plain(payload, at)) < end:
        head = payload[at]
        if (width := _BYTES.get(head)) is not None:
            at += 1 + width + _number(payload, at, width)
            if at > end:
                raise Malformed("the payload is cut")
            continue
        if (width := _ARRAY.get(head)) is not None:
            count, arrays = _count(payload, at, width, MAX_BLOCK_TOKENS), arrays + 1
        elif (width := _MAP.get(head)) is not None:
            count = 2 * _count(payload, at, width, MAX_FIELDS)
        else:
            raise Malformed(f"the payload is cut, or holds a value of the unknown type {head:#x}")
        at += 1 + width
        claimed += count
        if count > end - at or claimed > min(end, MAX_VALUES) or arrays > MAX_ARRAYS:
            raise Malformed("the payload claims more than it holds, or than any message does")


def _after_plain(payload: bytes, at: int) -> int:
    found = _PLAIN.match(payload, at)
    return at if found is None else found.end()


def _number(payload: bytes, at: int, width: int) -> int:
    return int.from_bytes(payload[at + 1 : at + 1 + width], "big")


def _count(payload: bytes, at: int, width: int, most: int) -> int:
    count = _number(payload, at, width) if width else payload[at] & 0x0F
    if count > most:
        raise Malformed(f"the payload claims {count} values in one place; allowed: up to {most}")
    return count
