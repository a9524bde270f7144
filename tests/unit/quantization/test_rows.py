"""Single rows of coded states: taken out, joined and logged without being coded again."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.messages import Codec, HiddenBlock
from shared.quantization import CodedRows, decode, encode, join, row_of, validate

CODECS: tuple[Codec, ...] = ("fp32", "fp16", "int8")
HIDDEN = 66  # not a multiple of the scales' 64
WHOLE = torch.randn(9, HIDDEN, generator=torch.Generator().manual_seed(1))

codecs = st.sampled_from(CODECS)
picks = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=9)


def parts(codec: Codec) -> list[HiddenBlock]:
    return [encode(WHOLE[start : start + 3], codec) for start in (0, 3, 6)]


@given(codec=codecs, taken=picks)
def test_joined_rows_are_the_block_they_would_have_been_coded_as(
    codec: Codec, taken: list[tuple[int, int]]
) -> None:
    blocks = parts(codec)
    block = join([(blocks[part], row) for part, row in taken])
    assert block == encode(WHOLE[[3 * part + row for part, row in taken]], codec)
    validate(block, hidden=HIDDEN)
    states = decode(block, dtype=torch.float32, device="cpu")
    for (part, row), found in zip(taken, states, strict=True):
        expected = decode(blocks[part], dtype=torch.float32, device="cpu")[row]
        assert torch.equal(found, expected)


@given(codec=codecs, taken=picks)
def test_a_log_takes_rows_one_by_one(codec: Codec, taken: list[tuple[int, int]]) -> None:
    blocks, log = parts(codec), CodedRows(codec, HIDDEN)
    for part, row in taken:
        log.append_row(blocks[part], row)
    assert log.end == len(taken)
    assert log.slice(0, log.end) == join([(blocks[part], row) for part, row in taken])
    log.append(blocks[0])
    assert log.slice(len(taken), len(taken) + 3) == blocks[0]


@pytest.mark.parametrize(("codec", "width"), [("fp32", 264), ("fp16", 132), ("int8", 66)])
def test_a_row_is_its_own_bytes(codec: Codec, width: int) -> None:
    block = encode(WHOLE, codec)
    for row in range(9):
        payload, scales = row_of(block, row)
        alone = encode(WHOLE[row : row + 1], codec)
        assert (bytes(payload), bytes(scales)) == (alone.payload, alone.scales)
        assert len(payload) == width
