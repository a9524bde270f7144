"""Coded rows as bytes: the log that keeps and slices them, and blocks refused before anything is
allocated for them.
"""

import struct
import zlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Malformed
from shared.protocol.messages import Codec, HiddenBlock
from shared.quantization import CodedRows, decode, encode, validate

CODECS: tuple[Codec, ...] = ("fp32", "fp16", "int8")
HIDDEN = 66  # not a multiple of the scales' 64
WHOLE = torch.randn(12, HIDDEN, generator=torch.Generator().manual_seed(0))

codecs = st.sampled_from(CODECS)


@given(codec=codecs, cuts=st.sets(st.integers(1, 11)), data=st.data())
def test_a_log_gives_back_any_run_of_rows_as_first_coded(
    codec: Codec, cuts: set[int], data: st.DataObject
) -> None:
    log = CodedRows(codec, HIDDEN)
    bounds = [0, *sorted(cuts), 12]
    for start, stop in pairwise(bounds):
        overlap = data.draw(st.integers(0, start))
        log.append(encode(WHOLE[start - overlap : stop], codec), skip=overlap)
        assert log.end == stop
    start = data.draw(st.integers(0, 11))
    stop = data.draw(st.integers(start + 1, 12))
    block = log.slice(start, stop)
    assert block == encode(WHOLE[start:stop], codec)
    validate(block, hidden=HIDDEN)


@given(codec=codecs, end=st.integers(0, 15))
def test_a_truncated_log_is_as_if_the_rest_had_never_come(codec: Codec, end: int) -> None:
    log = CodedRows(codec, HIDDEN)
    log.append(encode(WHOLE, codec))
    log.truncate(end)
    kept = min(end, 12)
    shorter = CodedRows(codec, HIDDEN)
    if kept:
        shorter.append(encode(WHOLE[:kept], codec))
    assert log == shorter
    assert log.nbytes == shorter.nbytes
    if kept < 12:
        log.append(encode(WHOLE[kept:], codec))
    assert log.slice(0, 12) == encode(WHOLE, codec)


@pytest.mark.parametrize(("codec", "row"), [("fp32", 264), ("fp16", 132), ("int8", 66 + 4)])
def test_a_log_counts_every_byte_it_holds(codec: Codec, row: int) -> None:
    log = CodedRows(codec, HIDDEN)
    assert log.nbytes == 0
    log.append(encode(WHOLE, codec))
    assert log.nbytes == 12 * row


def sealed(block: HiddenBlock) -> HiddenBlock:
    """`block` with the checksum of its bytes."""
    return replace(block, checksum=zlib.crc32(block.scales, zlib.crc32(block.payload)))


def refusal(block: HiddenBlock, *, hidden: int = HIDDEN) -> str:
    with pytest.raises(Malformed) as refused:
        validate(block, hidden=hidden)
    return refused.value.code


@pytest.mark.parametrize("codec", CODECS)
def test_a_block_that_says_another_shape_than_its_bytes_is_refused(codec: Codec) -> None:
    block = encode(WHOLE, codec)
    assert refusal(block, hidden=HIDDEN - 1) == "shape"
    assert refusal(replace(block, shape=(11, HIDDEN))) == "shape"
    assert refusal(replace(block, shape=(131_072, HIDDEN))) == "shape"
    assert refusal(sealed(replace(block, payload=block.payload[:-1]))) == "shape"
    assert refusal(sealed(replace(block, payload=block.payload + b"\0"))) == "shape"
    assert refusal(sealed(replace(block, scales=block.scales + b"\0\0"))) == "shape"
    other = CODECS[CODECS.index(codec) - 1]
    assert refusal(replace(block, codec=other)) == "shape"


@given(codec=codecs, where=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_stored_block_is_refused(codec: Codec, where: int, bit: int) -> None:
    block = encode(WHOLE, codec)
    coded = bytearray(block.payload + block.scales)
    coded[where % len(coded)] ^= 1 << bit
    split = len(block.payload)
    damaged = replace(block, payload=bytes(coded[:split]), scales=bytes(coded[split:]))
    assert refusal(damaged) == "checksum"


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf"), -0.5])
def test_a_scale_that_is_negative_or_not_finite_is_refused(scale: float) -> None:
    block = encode(WHOLE, "int8")
    scales = struct.pack("<e", scale) + block.scales[2:]
    assert refusal(sealed(replace(block, scales=scales))) == "scales"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("codec", "pack"), [("fp32", "<f"), ("fp16", "<e")])
def test_a_value_that_is_not_finite_is_refused(codec: Codec, pack: str, value: float) -> None:
    block = encode(WHOLE, codec)
    bad = struct.pack(pack, value)
    payload = block.payload[: -len(bad)] + bad
    assert refusal(sealed(replace(block, payload=payload))) == "values"


@given(codec=codecs, tokens=st.integers(1, 3), data=st.data())
def test_arbitrary_bytes_are_refused_exactly_where_they_are_no_finite_states(
    codec: Codec, tokens: int, data: st.DataObject
) -> None:
    width = data.draw(st.sampled_from([1, 8, 65]))
    block = encode(torch.zeros(tokens, width), codec)
    payload = data.draw(st.binary(min_size=len(block.payload), max_size=len(block.payload)))
    scales = data.draw(st.binary(min_size=len(block.scales), max_size=len(block.scales)))
    block = sealed(replace(block, payload=payload, scales=scales))
    # Before it is validated a block may hold anything: what that decodes to is the yardstick here.
    with np.errstate(invalid="ignore"):
        states = decode(block, dtype=torch.float32, device="cpu")
    assert states.shape == (tokens, width)
    if bool(states.isfinite().all()) and not _negative(scales):
        validate(block, hidden=width)
    else:
        assert refusal(block, hidden=width) == ("scales" if codec == "int8" else "values")


def _negative(scales: bytes) -> bool:
    return any(value < 0 for (value,) in struct.iter_unpack("<e", scales))
