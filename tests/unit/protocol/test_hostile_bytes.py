"""Whatever bytes arrive, reading them gives a message or one of two errors with a code that says
why.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Malformed, TooLarge
from shared.protocol.messages import Message
from shared.protocol.version import MAX_BLOCK_TOKENS, MAX_VOCABULARY, PROTOCOL_VERSION
from shared.protocol.wire import decode, decode_blocks, encode, frame_length
from tests.unit.protocol.strategies import BLOCK, CLOSE, EXAMPLES, FAULT, REPORT, messages

LIMIT = 1 << 16
CODES = {"truncated", "malformed", "protocol_version", "checksum", "field"}
KINDS: dict[str, tuple[int, Message]] = {
    "block": (1, BLOCK),
    "report": (2, REPORT),
    "close": (3, CLOSE),
    "fault": (4, FAULT),
}


def sealed(
    payload: bytes, *, magic: bytes = b"TD", version: int = PROTOCOL_VERSION, kind: int = 1
) -> bytes:
    """A frame with a right length and checksum around any payload."""
    framed = struct.pack("<2sBBI", magic, version, kind, len(payload)) + payload
    return framed + struct.pack("<I", zlib.crc32(framed))


def changed(kind: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The example of `kind` as a sealed frame whose map suffered `change`."""
    number, message = KINDS[kind]
    fields = msgpack.unpackb(encode(message)[8:-4], use_list=True)
    change(fields)
    return sealed(msgpack.packb(fields), kind=number)


def refusal(frame: bytes) -> str:
    """The code a frame is refused with."""
    with pytest.raises(Malformed) as refused:
        decode(frame, limit=LIMIT)
    assert refused.value.status == 400
    return refused.value.code


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_truncation_is_called_truncated(message: Message) -> None:
    frame = encode(message)
    assert {refusal(frame[:length]) for length in range(len(frame))} == {"truncated"}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_flipped_bit_is_noticed(message: Message) -> None:
    frame = encode(message)
    for bit in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Malformed, TooLarge)):
            decode(bytes(damaged), limit=LIMIT)
        if bit >= 64:  # past the header nothing but the checksum stands between
            assert refusal(bytes(damaged)) == "checksum"


@given(damage=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(damage: bytes) -> None:
    assert refusal(damage) in CODES


@given(payload=st.binary(max_size=200), kind=st.integers(1, 4))
def test_arbitrary_payloads_in_a_right_frame_are_refused(payload: bytes, kind: int) -> None:
    assert refusal(sealed(payload, kind=kind)) in {"malformed", "field"}


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary()
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
def test_any_value_in_any_field_is_refused_by_name_or_kept(kind: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(msgpack.unpackb(encode(KINDS[kind][1])[8:-4]))))
    value = data.draw(_values)
    refused: list[Malformed] = []
    try:
        decode(changed(kind, lambda fields: fields.update({name: value})), limit=LIMIT)
    except Malformed as error:
        refused.append(error)
    assert {(error.code, str(error.field).split(".")[0]) for error in refused} <= {("field", name)}


def _nested(depth: int) -> bytes:
    return b"\x81\xa7session" + b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(sealed(b"\x80", magic=b"HT"), "malformed", id="magic"),
        pytest.param(
            sealed(b"\x80", version=PROTOCOL_VERSION + 1), "protocol_version", id="version"
        ),
        pytest.param(sealed(b"\x80", version=0), "protocol_version", id="version 0"),
        pytest.param(sealed(b"\x80", kind=0), "malformed", id="kind 0"),
        pytest.param(sealed(b"\x80", kind=5), "malformed", id="kind 5"),
        pytest.param(encode(CLOSE) + b"\x00", "malformed", id="a byte after the frame"),
        pytest.param(encode(CLOSE) * 2, "malformed", id="two frames"),
        pytest.param(sealed(b"\x80\x80"), "malformed", id="two maps"),
        pytest.param(sealed(b""), "malformed", id="nothing"),
        pytest.param(sealed(b"\x90"), "malformed", id="an array"),
        pytest.param(sealed(b"\x81\x01\x02"), "malformed", id="a number as a name"),
        pytest.param(sealed(b"\x81\xa1\xff\x02"), "malformed", id="a name that is no UTF-8"),
        pytest.param(sealed(b"\x81\xa1a\xd6\xff\0\0\0\0"), "malformed", id="a timestamp"),
        pytest.param(sealed(b"\x81\xa1a\xc7\x03\x05abc"), "malformed", id="an extension"),
        pytest.param(sealed(b"\x81\xa1a\xdd\xff\xff\xff\xff"), "malformed", id="a huge array"),
        pytest.param(sealed(b"\xdf\xff\xff\xff\xff"), "malformed", id="a huge map"),
        pytest.param(sealed(b"\x81\xa1a\xc6\xff\xff\xff\xff"), "malformed", id="huge bytes"),
        pytest.param(sealed(_nested(500), kind=3), "field", id="nested 500 deep"),
        pytest.param(sealed(_nested(50_000), kind=3), "malformed", id="nested 50,000 deep"),
        pytest.param(sealed(b"\x80"), "field", id="no fields"),
    ],
)
def test_a_frame_that_is_none_is_refused(frame: bytes, code: str) -> None:
    assert refusal(frame) == code


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("close", "session", 5),
        ("close", "session", b"session"),
        ("close", "session", ""),
        ("close", "session", "a" * 65),
        ("close", "session", "a b"),
        ("close", "session", "a\n"),
        ("close", "session", "../a"),
        ("close", "extra", 1),
        ("block", "sequence", -1),
        ("block", "sequence", True),
        ("block", "sequence", 1.0),
        ("block", "sequence", "1"),
        ("block", "acknowledged", 2**31),
        ("block", "start", -1),
        ("block", "parent", b"short"),
        ("block", "parent", "12345678"),
        ("block", "tokens", [-1]),
        ("block", "tokens", [MAX_VOCABULARY]),
        ("block", "tokens", [1.0]),
        ("block", "tokens", ["1"]),
        ("block", "tokens", None),
        ("block", "want", "soonish"),
        ("block", "want", 1),
        ("block", "states", {}),
        ("block", "states.codec", "bf16"),
        ("block", "states.shape", [0, 3]),
        ("block", "states.shape", [2]),
        ("block", "states.shape", [2, 3, 1]),
        ("block", "states.shape", [2, 65_537]),
        ("block", "states.payload", "text"),
        ("block", "states.checksum", 2**32),
        ("block", "states.extra", 1),
        ("block", "opening.mode", "standalone"),
        ("block", "opening.depth", 0),
        ("block", "opening.fingerprint", "f" * 129),
        ("block", "opening.extra", 1),
        ("block", "opening.sampling.temperature", float("nan")),
        ("block", "opening.sampling.temperature", float("inf")),
        ("block", "opening.sampling.temperature", -0.1),
        ("block", "opening.sampling.top_p", 0.0),
        ("block", "opening.sampling.top_p", float("nan")),
        ("block", "opening.sampling.min_p", 1.5),
        ("block", "opening.sampling.repetition_penalty", 0.0),
        ("block", "opening.sampling.seed", -1),
        ("block", "opening.sampling.eos_ids", [MAX_VOCABULARY]),
        ("report", "seconds", float("nan")),
        ("report", "seconds", float("inf")),
        ("report", "seconds", -1.0),
        ("report", "compute_seconds", float("nan")),
        ("report", "compute_seconds", "1"),
        ("report", "need_from", -1),
        ("report", "pressure", None),
        ("report", "disagreements", [{"position": 1}]),
        ("fault", "retryable", 1),
        ("fault", "message", "m" * 4097),
    ],
)
def test_a_value_out_of_its_fields_range_is_refused_naming_the_field(
    kind: str, path: str, value: object
) -> None:
    *outer, last = path.split(".")

    def change(fields: dict[str, Any]) -> None:
        for step in outer:
            fields = fields[step]
        fields[last] = value

    with pytest.raises(Malformed) as refused:
        decode(changed(kind, change), limit=LIMIT)
    assert refused.value.code == "field"
    assert str(refused.value.field).startswith(path)


def _scalars(fields: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _scalars(value)
        elif isinstance(value, int | float | str | bytes):
            yield fields, name


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("value", [True, 1, 1.5, "1", b"1", [1]])
def test_no_field_takes_a_value_of_another_type(kind: str, value: object) -> None:
    """Nothing is coerced: neither true nor "1" nor 1.5 is the number 1, nor 1 a true."""
    number, message = KINDS[kind]
    fields = msgpack.unpackb(encode(message)[8:-4])
    for owner, name in list(_scalars(fields)):
        right = owner[name]
        if type(right) is type(value) or (type(right), type(value)) == (float, int):
            continue
        owner[name] = value
        assert refusal(sealed(msgpack.packb(fields), kind=number)) == "field", name
        owner[name] = right


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_missing_field_without_default_is_refused(kind: str) -> None:
    required = {"block": "parent", "report": "digest", "close": "session", "fault": "code"}[kind]
    assert refusal(changed(kind, lambda fields: fields.pop(required))) == "field"


@given(message=messages, below=st.integers(1, 8))
def test_a_frame_over_the_limit_is_refused_from_its_header(message: Message, below: int) -> None:
    frame = encode(message)
    assert decode(frame, limit=len(frame)) == message
    with pytest.raises(TooLarge, match=f"{len(frame)} bytes is over the limit"):
        frame_length(frame[:8], limit=len(frame) - below)
    with pytest.raises(TooLarge):
        decode(frame[:8], limit=len(frame) - below)


def test_more_tokens_than_a_block_may_hold_are_refused() -> None:
    frame = changed("block", lambda fields: fields.update(tokens=[0] * (MAX_BLOCK_TOKENS + 1)))
    with pytest.raises(Malformed):
        decode(frame, limit=len(frame))


@pytest.mark.parametrize("message", EXAMPLES[1:], ids=lambda m: type(m).__name__)
def test_another_message_where_a_block_was_expected_is_refused(message: Message) -> None:
    with pytest.raises(Malformed, match="a block was expected"):
        decode_blocks(encode(message), limit=LIMIT)
    assert decode_blocks(encode(BLOCK), limit=LIMIT) == [BLOCK]
