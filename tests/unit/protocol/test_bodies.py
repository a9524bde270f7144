"""Bodies of several blocks: the frames end to end, of one session, and bounded."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Malformed, TooLarge
from shared.protocol.messages import Block, Close
from shared.protocol.version import MAX_BLOCKS
from shared.protocol.wire import decode_blocks, encode
from tests.unit.protocol.strategies import EXAMPLES

LIMIT = 1 << 16
BLOCK = next(message for message in EXAMPLES if isinstance(message, Block))
SMALL = replace(BLOCK, tokens=(), states=None, opening=None)


def body(*blocks: Block) -> bytes:
    return b"".join(map(encode, blocks))


def refusal(given: bytes) -> str:
    with pytest.raises(Malformed) as refused:
        decode_blocks(given, limit=LIMIT)
    return refused.value.code


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=9))
def test_blocks_come_out_as_they_went_in(sequences: list[int]) -> None:
    blocks = [replace(BLOCK, sequence=sequence) for sequence in sequences]
    assert decode_blocks(body(*blocks), limit=LIMIT) == blocks


@given(cut=st.integers(0, 10**6), sequences=st.integers(1, 3))
def test_a_body_cut_anywhere_else_is_refused(cut: int, sequences: int) -> None:
    blocks = [replace(BLOCK, sequence=sequence) for sequence in range(sequences)]
    whole = body(*blocks)
    frame = len(whole) // sequences
    cut %= len(whole)
    if cut and cut % frame == 0:
        assert decode_blocks(whole[:cut], limit=LIMIT) == blocks[: cut // frame]
    else:
        assert refusal(whole[:cut]) == "truncated"


def test_no_block_is_none_too_many() -> None:
    assert refusal(b"") == "truncated"


def test_so_many_blocks_and_no_more() -> None:
    most = [replace(SMALL, sequence=sequence) for sequence in range(MAX_BLOCKS)]
    assert decode_blocks(body(*most), limit=LIMIT) == most
    assert refusal(body(*most, SMALL)) == "malformed"


def test_blocks_of_two_sessions_do_not_travel_together() -> None:
    assert refusal(body(SMALL, replace(SMALL, session="another"))) == "malformed"


def test_a_body_of_blocks_holds_nothing_else() -> None:
    assert refusal(body(SMALL) + encode(Close(session=SMALL.session, revision=0))) == "malformed"
    assert refusal(body(SMALL) + b"TDxx\1\0\0\0.....") == "checksum"


def test_a_damaged_block_spoils_the_body() -> None:
    given = bytearray(body(SMALL, SMALL))
    given[-6] ^= 1
    assert refusal(bytes(given)) == "checksum"


def test_a_frame_over_the_limit_is_refused_by_its_head() -> None:
    with pytest.raises(TooLarge):
        decode_blocks(body(SMALL, BLOCK), limit=len(encode(BLOCK)) - 1)
