"""What a payload claims is refused before anything is made of it."""

import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Malformed
from shared.protocol.bounds import require_bounded
from shared.protocol.messages import Disagreement
from shared.protocol.version import MAX_ARRAYS, MAX_BLOCK_TOKENS, MAX_FIELDS, MAX_VALUES
from shared.protocol.wire import decode, encode, pack, unpack
from tests.unit.protocol.strategies import BLOCK, REPORT, messages
from tests.unit.protocol.test_hostile_bytes import changed, refusal, sealed

PADDING: bytes = msgpack.packb("padding") + msgpack.packb(bytes(2000))


def padded(entries: bytes, count: int = 1) -> bytes:
    """A map of these entries, long enough to be looked at before it is decoded."""
    return bytes((0x81 + count, *PADDING, *entries))


@contextmanager
def at_most(peak: int) -> Iterator[None]:
    """Hold that no more than so many bytes were ever in use at a time."""
    tracemalloc.start()
    try:
        yield
        found = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found <= peak, found


def array(claimed: int) -> bytes:
    return b"\xdd" + struct.pack(">I", claimed)


CLAIMS = {
    "an array of more than there is": array(50_000),
    "arrays of more than there is inside each other": array(131_072) * 1000,
    "arrays that share what there is": array(1500) * 2,
    "a map of more than there is": b"\xde\x00\x40\xa1a",
    "a map of too many fields": b"\xde\x00\x41" + b"\xc0" * 200,
    "bytes of more than there is": b"\xc6\x00\x01\x00\x00",
    "a text of more than there is": b"\xdb\x00\x01\x00\x00",
    "a length that is cut": b"\xdd\x00",
    "a number that is cut": b"\xcf\x00",
    "an extension": b"\xc7\x03\x05abc",
    "an extension of nothing": b"\xc7\x00\x05",
    "a timestamp": b"\xd6\xff\0\0\0\0",
    "a timestamp of twelve bytes": b"\xc7\x0c\xff" + bytes(12),
    "a type nobody uses": b"\xc1",
}


@pytest.mark.parametrize("value", CLAIMS.values(), ids=CLAIMS)
def test_a_claim_beyond_what_came_is_refused_before_it_is_believed(value: bytes) -> None:
    payload = padded(b"\xa1a" + value)
    with at_most(50_000), pytest.raises(Malformed):
        require_bounded(payload)
    with at_most(100_000), pytest.raises(Malformed):
        unpack(payload)
    with at_most(1_000_000), pytest.raises(Malformed):
        unpack(b"\x81\xa1a" + value[:1000])  # of a payload too short to be looked at twice


def test_more_arrays_than_any_message_has_are_refused() -> None:
    def arrays(count: int) -> bytes:
        return padded(b"\xa1a" + bytes([0x90 + count]) + b"\x90" * count)

    require_bounded(arrays(MAX_ARRAYS - 1))
    with pytest.raises(Malformed):
        require_bounded(arrays(MAX_ARRAYS))


def test_more_values_than_any_message_has_are_refused() -> None:
    def maps(count: int) -> bytes:
        inner = {f"{n:02}": None for n in range(MAX_FIELDS)}
        return bytes(msgpack.packb([inner] * count))

    most = MAX_VALUES // (2 * MAX_FIELDS + 1)
    require_bounded(maps(most - 1))
    with pytest.raises(Malformed, match="claims more"):
        require_bounded(maps(most + 1))


@given(message=messages)
def test_every_message_is_within_the_bounds(message: Any) -> None:
    require_bounded(pack(message))


def test_the_largest_report_and_the_largest_block_are_within_the_bounds() -> None:
    every = range(MAX_BLOCK_TOKENS)
    told = tuple(Disagreement(position=2**31 - 1 - n, token=n) for n in every)
    for message in (
        replace(REPORT, tokens=tuple(every), disagreements=told),
        replace(BLOCK, tokens=tuple(every)),
    ):
        frame = encode(message)
        assert decode(frame, limit=len(frame)) == message


@given(value=st.binary(max_size=300))
def test_what_is_within_the_bounds_takes_no_more_than_a_multiple_of_it(value: bytes) -> None:
    payload = padded(b"\xa1a" + value)
    try:
        require_bounded(payload)
    except Malformed:
        return
    with at_most(100 * len(payload)):
        try:
            unpack(payload)
        except Malformed:
            return


@pytest.mark.parametrize("outer", ["session", "revision"])
def test_a_field_that_is_there_twice_is_refused(outer: str) -> None:
    once = msgpack.packb({"session": "s", "revision": 1})
    twice = bytes([0x83]) + once[1:] + msgpack.packb({outer: 1})[1:]
    assert refusal(sealed(twice, kind=3)) == "malformed"
    assert refusal(sealed(bytes([0x81]) + b"\xa1a" + twice, kind=3)) == "malformed"


@pytest.mark.parametrize("field", ["tokens", "opening.sampling.eos_ids"])
def test_of_many_wrong_tokens_one_is_told(field: str) -> None:
    *outer, last = field.split(".")

    def change(fields: dict[str, Any]) -> None:
        for step in outer:
            fields = fields[step]
        fields[last] = [-1] * MAX_BLOCK_TOKENS

    frame = changed("block", change)
    began = time.perf_counter()
    with at_most(8_000_000), pytest.raises(Malformed) as refused:
        decode(frame, limit=len(frame))
    assert refused.value.field == f"{field}.0"
    assert time.perf_counter() - began < 20


def test_a_name_that_is_refused_is_told_in_short() -> None:
    with pytest.raises(Malformed) as refused:
        decode(changed("close", lambda fields: fields.update({"x" * 60_000: 1})), limit=1 << 16)
    assert len(str(refused.value.field)) == 200
    assert len(refused.value.message) <= 1000
