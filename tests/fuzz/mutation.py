"""Inputs made from valid ones: bytes changed blindly, and msgpack changed value by value.

A function of a generator's state alone, so that a run can be done again.
"""

import struct
from copy import deepcopy
from random import Random
from typing import Any

import msgpack

_INTERESTING = (0, 1, -1, 127, 128, 255, 256, 65_535, 2**31 - 1, 2**31, 2**63, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    *_INTERESTING,
    *(None, True, False, 0.0, 1e308, 5e-324, float("nan"), float("inf"), -1.5),
    *(b"", b"\0" * 8, "", "x", "\0", "now", "x" * 70, [], {}, [0] * 9, [[]], [{}], {"a": 1}),
    msgpack.ExtType(5, b""),
    msgpack.Timestamp(0, 0),
)
_TOKENS = (b"\xff", b"\0", b"\r\n", b"[", b"{", b'"', b"\\ud800", b"\xdd\x00\x02\x00\x00", b"\xc1")


def mutated(seed: bytes, random: Random, *, structured: bool) -> bytes:
    """Return another input of the kind of `seed`."""
    if random.random() < 0.05:
        return random.randbytes(random.randrange(300))
    if structured and random.random() < 0.6:
        try:
            fields = msgpack.unpackb(seed, strict_map_key=False)
        except (ValueError, TypeError, msgpack.UnpackException):
            fields = None
        if not isinstance(fields, dict | list):  # what was found once need not be a message
            return _damaged(seed, random)
        for _ in range(random.randint(1, 3)):
            _change(fields, random)
        packed: bytes = msgpack.packb(fields)
        return packed if random.random() < 0.8 else _damaged(packed, random)
    return _damaged(seed, random)


def _change(value: Any, random: Random) -> None:
    """Change one thing in a map, or in what it holds."""
    places: list[tuple[Any, Any]] = []
    _collect(value, places)
    if not places:
        return
    owner, at = random.choice(places)
    match random.randrange(5):
        case 0 if isinstance(owner, dict):
            del owner[at]
        case 1 if isinstance(owner, dict):
            owner[random.choice(("extra", "session", "x" * 300, "tokens"))] = owner[at]
        case 2 if isinstance(owner[at], int):
            owner[at] = min(2**64 - 1, max(-(2**63), owner[at] + random.choice(_INTERESTING)))
        case 3 if isinstance(owner[at], list):
            owner[at] = owner[at] * random.choice((0, 2, 100))
        case _:
            owner[at] = deepcopy(random.choice(_VALUES))  # else changed for good


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    within = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in within:
        places.append((value, key))
        if isinstance(inner, dict | list):
            _collect(inner, places)


def _damaged(seed: bytes, random: Random) -> bytes:
    data = bytearray(seed)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(data) + 1)
        match random.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 1 if at < len(data):
                data[at] = random.randrange(256)
            case 2:
                data[at:at] = random.choice(_TOKENS) * random.choice((1, 1, 3, 200))
            case 3:
                del data[at : at + random.randint(1, 20)]
            case 4:
                size = random.choice((1, 2, 4, 8))
                number = random.choice(_INTERESTING) % 2 ** (8 * size)
                data[at : at + size] = struct.pack("<Q", number)[:size]
            case 5:
                other = random.randrange(len(data) + 1)
                data[at:at] = data[other : other + random.randint(1, 60)]
            case _:
                del data[at:]
    return bytes(data[: 1 << 16])
