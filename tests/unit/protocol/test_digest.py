"""Prefix digests: the same tokens in the same order under the same parameters, or another name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.digest import DIGEST_BYTES, extend, extend_all, root_digest

ids = st.lists(st.integers(0, 2**32 - 1), max_size=8)
ROOT = root_digest("fingerprint", "session", b"parameters")


@given(tokens=ids, more=ids)
def test_a_chain_continues_where_it_was_left(tokens: list[int], more: list[int]) -> None:
    chain = extend_all(ROOT, tokens)
    middle = chain[-1] if chain else ROOT
    assert chain + extend_all(middle, more) == extend_all(ROOT, tokens + more)
    assert len(chain) == len(tokens)


@given(tokens=ids, others=ids)
def test_other_tokens_have_other_digests(tokens: list[int], others: list[int]) -> None:
    ends = [[ROOT, *extend_all(ROOT, run)][-1] for run in (tokens, others)]
    assert (ends[0] == ends[1]) == (tokens == others)


def test_the_order_of_tokens_counts() -> None:
    assert extend_all(ROOT, [1, 2])[-1] != extend_all(ROOT, [2, 1])[-1]


def test_every_part_of_the_root_separates_sessions() -> None:
    roots = {
        ROOT,
        root_digest("other", "session", b"parameters"),
        root_digest("fingerprint", "other", b"parameters"),
        root_digest("fingerprint", "session", b"other"),
        # Lengths go in with the parts: moving a byte over a boundary makes another root.
        root_digest("fingerprints", "ession", b"parameters"),
        root_digest("fingerprint", "sessionp", b"arameters"),
    }
    assert len(roots) == 6
    assert {len(root) for root in roots} == {DIGEST_BYTES}


@pytest.mark.parametrize("token", [-1, 2**32])
def test_a_token_of_more_than_32_bits_has_no_digest(token: int) -> None:
    with pytest.raises(Exception, match=r"format requires|argument out of range"):
        extend(ROOT, token)


def test_digests_are_these_bytes() -> None:
    """A change of the hash is a change of the protocol."""
    assert ROOT.hex() == "d5707897738fdbe0"
    assert extend(ROOT, 7).hex() == "a29d08a8d3220a81"
