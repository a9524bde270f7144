"""What a verified session in the cloud refuses, and how much of what it takes in it keeps."""

from dataclasses import replace
from typing import Any

import pytest

from services.cloud.contexts import Standing
from shared.errors import Malformed
from shared.protocol.messages import Block
from tests.unit.cloud.sessions import TEXT, block, coded, snapshot
from tests.unit.cloud.test_verified_context import BY_IDS, PROMPT, decided, draft, fresh, lines

OTHER = [*TEXT[:4], 8, 8, 8]  # leaves the text at position 4


def refusal(context: Any, given: Block) -> str:
    """The code a block is refused with, leaving everything as it was."""
    before = snapshot(context) | {"nodes": dict(context.nodes)}
    with pytest.raises(Malformed) as refused:
        context.apply(given)
    assert snapshot(context) | {"nodes": dict(context.nodes)} == before
    return refused.value.code


def test_a_confirmed_token_stands_against_a_newer_word_of_the_edge() -> None:
    context = fresh()
    context.apply(decided(6, sequence=1))
    assert context.confirmed == 6
    other = block(5, 4, text=OTHER, opening=context.opening, sequence=2, binding=5)
    assert refusal(context, other) == "conflict"
    on_it = block(7, 5, text=OTHER, opening=context.opening, sequence=3, binding=7)
    assert refusal(context, on_it) == "conflict"


def test_an_older_word_on_another_prefix_is_stale() -> None:
    context = fresh()
    context.apply(decided(6, sequence=9))
    old = block(7, 5, text=OTHER, opening=context.opening, sequence=2, binding=7)
    assert context.apply(old) is Standing.STALE
    late = draft(OTHER, 4, PROMPT, sequence=3)
    context.apply(late)
    assert (context.tokens, lines(context)) == (list(TEXT[:6]), [])


def test_the_edges_word_replaces_an_offer_it_has_not_confirmed() -> None:
    """The report was lost, and the edge has gone on by itself."""
    context = fresh()
    context.apply(decided(4, sequence=1))
    context.append(TEXT[4])
    context.append(TEXT[5])
    own = block(6, 4, text=OTHER, opening=context.opening, sequence=2, binding=6, acknowledged=6)
    context.apply(own)
    assert context.tokens == OTHER[:6]
    assert context.states.slice(0, 6) == coded(OTHER, 0, 6)
    assert context.confirmed == 6


def test_what_the_edge_holds_otherwise_is_not_confirmed() -> None:
    """The block after its own token overtakes that token's; both come again."""
    context = fresh()
    context.apply(decided(4, sequence=1))
    context.append(TEXT[4])
    context.append(TEXT[5])
    own: dict[str, Any] = {"text": OTHER, "opening": context.opening}
    context.apply(block(7, 5, sequence=3, binding=7, acknowledged=7, **own))
    context.apply(block(5, 4, sequence=2, binding=5, acknowledged=5, **own))
    context.apply(block(7, 4, sequence=4, binding=7, acknowledged=7, **own))
    assert context.tokens == OTHER


def test_an_older_word_does_not_replace_what_was_decided_since() -> None:
    context = fresh()
    context.apply(decided(4, sequence=5))
    context.append(TEXT[4])
    own = block(6, 4, text=OTHER, opening=context.opening, sequence=2, binding=6)
    context.apply(own)
    assert context.tokens == list(TEXT[:5])


def test_drafts_never_replace_what_was_decided() -> None:
    context = fresh()
    context.apply(decided(4, sequence=1))
    context.append(TEXT[4])
    context.apply(draft(OTHER, 4, 4, sequence=2))
    assert (context.tokens, lines(context)) == (list(TEXT[:5]), [])


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (block(3, opening=fresh().opening, binding=2), "drafts"),
        (draft([*TEXT, *range(9), 1, 2, 3, 4, 5, 6], 4, 4), "position"),
        (draft(TEXT[:6], 4, 4, states=coded(TEXT, 4, 5)), "shape"),
        (draft(TEXT[:6], 4, 4, states=replace(coded(TEXT, 4, 6), codec="int8")), "codec"),
    ],
)
def test_a_block_that_cannot_be_is_refused(given: Block, code: str) -> None:
    context = fresh()
    context.apply(decided(4, sequence=1))
    assert refusal(context, given) == code


def test_a_session_by_ids_takes_no_states() -> None:
    context = fresh(BY_IDS)
    context.apply(decided(4, sequence=1, opening=BY_IDS))
    given = draft(TEXT[:6], 4, 4, opening=BY_IDS, states=coded(TEXT, 4, 6))
    assert refusal(context, given) == "shape"


def test_a_session_takes_so_many_nodes_and_says_how_many_more() -> None:
    context = fresh(max_nodes=4)
    context.apply(decided(PROMPT, sequence=1))
    assert context.allowed_nodes == 4
    context.apply(draft(TEXT[:6], PROMPT, PROMPT, sequence=2))
    assert context.allowed_nodes == 1
    context.apply(draft([*TEXT[:3], 8, 8, 8], PROMPT, PROMPT, sequence=3))
    assert context.allowed_nodes == 0
    assert len(lines(context)) == 4
    context.append(TEXT[3])
    context.prune()
    assert context.allowed_nodes == 2
    context.apply(draft([*TEXT[:4], 8], 4, 4, sequence=4))
    assert len(lines(context)) == 3


def test_what_the_edge_calls_final_finds_room_whatever_is_held() -> None:
    context = fresh(max_nodes=2)
    context.apply(decided(PROMPT, sequence=1))
    context.apply(draft([*TEXT[:3], 8, 8], PROMPT, PROMPT, sequence=2))
    context.apply(decided(6, PROMPT, sequence=3))
    assert context.tokens == list(TEXT[:6])
    assert context.held == 6


def test_every_node_is_on_the_books_with_its_state() -> None:
    context = fresh()
    context.apply(decided(PROMPT, sequence=1))
    before = context.nbytes
    context.apply(draft(TEXT[:6], PROMPT, PROMPT, sequence=2))
    row = len(coded(TEXT, 0, 1).payload)
    assert context.nbytes - before >= 3 * row
    for token in TEXT[3:6]:
        context.append(token)
    context.prune()
    assert context.nbytes == before + 3 * (row + 16)
