"""A verified session in the cloud: whatever comes in whichever order, the same is known."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.cloud.contexts import Node, Standing, VerifiedContext
from shared.protocol.messages import Block, Opening
from shared.quantization import row_of
from tests.support.toy_model import WIDTH
from tests.unit.cloud.sessions import OPENING, SESSION, TEXT, block, coded, digest_of

VERIFIED = replace(OPENING, mode="verified")
BY_IDS = replace(VERIFIED, split=0)
PROMPT = OPENING.prompt_tokens
END = len(TEXT)


def fresh(opening: Opening = VERIFIED, max_nodes: int = 256) -> VerifiedContext:
    return VerifiedContext(SESSION, opening, hidden=WIDTH, max_nodes=max_nodes)


def decided(stop: int, start: int = 0, *, opening: Opening = VERIFIED, **more: Any) -> Block:
    """The edge's final word on positions [start, stop) of `TEXT`, of which it knows `stop`."""
    known: dict[str, Any] = {"binding": stop, "acknowledged": stop}
    return block(stop, start, opening=opening, **known | more)


def draft(
    line: Sequence[int], start: int, known: int, *, opening: Opening = VERIFIED, **more: Any
) -> Block:
    """The nodes of `line` from `start` on, by an edge that knows `known` positions of `TEXT`."""
    fields: dict[str, Any] = {"binding": known, "acknowledged": known}
    return block(len(line), start, text=line, opening=opening, **fields | more)


def content(context: VerifiedContext) -> dict[str, object]:
    """What a context knows that matters, whichever blocks it came by: the prefix, its states, and
    what stands on it. (A node whose parent was passed by may linger; it can never be run.)
    """
    standing = {node.digest: node for node, _ in context.connected()}
    late = {d: node for d, node in context.nodes.items() if node.position < context.through}
    log = context.states
    return {
        "tokens": context.tokens,
        "digests": context.digests,
        "as ids": context.as_ids,
        "log": (log.end, bytes(log._payload), bytes(log._scales)),
        "nodes": {
            digest: (node.parent, node.position, node.token, node.binding, coded_row(node))
            for digest, node in (standing | late).items()
        },
    }


def coded_row(node: Node) -> tuple[bytes, ...] | None:
    return None if node.states is None else tuple(map(bytes, row_of(node.states, node.row)))


def lines(context: VerifiedContext) -> list[list[int]]:
    """The lines of the nodes that may be run, and their parents hold."""
    found: list[list[int]] = []
    for node, parent in context.connected():
        assert parent < len(found)
        found.append([*(found[parent] if parent >= 0 else context.tokens), node.token])
    return found


class Sent:
    """Blocks an edge has sent, in its order; told in few words where a test fails."""

    def __init__(self, opening: Opening, blocks: Sequence[Block]) -> None:
        self.opening = opening
        self.blocks = blocks

    def __repr__(self) -> str:
        told = [(b.sequence, b.start, b.tokens, b.binding) for b in self.blocks]
        return f"split {self.opening.split}: {told}"


@st.composite
def sent(draw: st.DrawFn) -> Sent:
    """What an edge sends whose drafts are right now and then, and which says some things again."""
    opening = draw(st.sampled_from([VERIFIED, BY_IDS]))
    blocks = [decided(PROMPT, opening=opening, sequence=1)]
    known = PROMPT
    for sequence in range(2, 2 + draw(st.integers(0, 8))):
        if draw(st.booleans()):
            start = draw(st.integers(PROMPT, known))
            blocks.append(decided(known, start, opening=opening, sequence=sequence))
        else:
            right = draw(st.integers(known, END))
            wrong = draw(st.lists(st.integers(0, 3), max_size=3))
            line = [*TEXT[:right], *wrong]
            start = draw(st.integers(known, len(line)))
            blocks.append(draft(line, start, known, opening=opening, sequence=sequence))
        known = draw(st.integers(known, END))
    return Sent(opening, blocks)


@given(given=sent(), data=st.data())
def test_order_and_repetition_do_not_matter(given: Sent, data: st.DataObject) -> None:
    expected = fresh(given.opening)
    for each in given.blocks:
        expected.apply(each)
    numbers = range(len(given.blocks))
    doubled = data.draw(st.lists(st.sampled_from(numbers), max_size=6))
    context = fresh(given.opening)
    for number in data.draw(st.permutations([*numbers, *doubled])):
        context.apply(given.blocks[number])
    assert content(context) == content(expected)
    assert context.sequence == expected.sequence


@given(given=sent(), data=st.data())
def test_what_the_cloud_decides_in_between_does_not_matter_either(
    given: Sent, data: st.DataObject
) -> None:
    """Deciding early or late comes to the same prefix, log and tree."""
    end = max(each.acknowledged for each in given.blocks)
    expected = fresh(given.opening)
    for each in given.blocks:
        expected.apply(each)
    while expected.through < end:
        expected.append(TEXT[expected.through])
    expected.prune()
    context = fresh(given.opening)
    context.apply(given.blocks[0])
    for number in data.draw(st.permutations(range(len(given.blocks)))):
        while context.through < end and data.draw(st.booleans()):
            context.append(TEXT[context.through])
            context.prune()
        context.apply(given.blocks[number])
    while context.through < end:
        context.append(TEXT[context.through])
        context.prune()
    ours, theirs = content(context), content(expected)
    assert {**ours, "nodes": set()} == {**theirs, "nodes": set()}
    assert sorted(lines(context)) == sorted(lines(expected))


@given(given=sent())
def test_what_is_connected_is_what_an_edge_has_drafted_on_the_prefix(given: Sent) -> None:
    context = fresh(given.opening)
    for each in given.blocks:
        context.apply(each)
    prefixes = [context.tokens[:end] for end in range(context.through + 1)]
    known = {digest_of(line, given.opening): line for line in prefixes}
    more = True
    while more:  # by definition, over all blocks again and again
        more = False
        for each in given.blocks:
            digest = each.parent
            for token in each.tokens:
                if digest not in known:
                    break
                line = [*known[digest], token]
                digest = digest_of(line, given.opening)
                more |= digest not in known
                known[digest] = line
    end = context.through
    expected = [line for line in known.values() if line[:end] == context.tokens and len(line) > end]
    assert sorted(lines(context)) == sorted(expected)


def test_deciding_moves_states_into_the_log_and_drops_what_was_passed_by() -> None:
    context = fresh()
    context.apply(decided(PROMPT, sequence=1))
    right, wrong = list(TEXT[:6]), [*TEXT[:3], 8, 8]
    context.apply(draft(right, PROMPT, PROMPT, sequence=2))
    context.apply(draft(wrong, PROMPT, PROMPT, sequence=3))
    assert sorted(lines(context)) == sorted([right[:4], right[:5], right[:6], wrong[:4], wrong[:5]])
    context.append(TEXT[3])
    context.append(TEXT[4])
    context.prune()
    assert lines(context) == [right]
    assert context.states.slice(0, 5) == coded(TEXT, 0, 5)
    assert context.held == context.through == 5


def test_a_state_may_come_after_its_token_was_decided() -> None:
    context = fresh()
    context.apply(decided(PROMPT, sequence=1))
    context.append(TEXT[3])
    context.append(TEXT[4])
    assert (context.held, context.through) == (3, 5)
    context.apply(decided(5, 4, sequence=3))
    assert context.held == 3
    context.apply(decided(4, 3, sequence=2))
    assert context.states.slice(0, 5) == coded(TEXT, 0, 5)
    assert context.nodes == {}


def test_ids_may_come_before_their_states() -> None:
    context = fresh()
    context.apply(decided(PROMPT, sequence=1, states=None))
    assert (context.held, context.through, context.as_ids) == (0, 3, 3)
    context.apply(decided(PROMPT, sequence=2))
    assert (context.held, context.nodes) == (3, {})


def test_without_states_all_that_is_decided_is_held() -> None:
    context = fresh(BY_IDS)
    context.apply(decided(PROMPT, sequence=1, opening=BY_IDS))
    context.apply(draft(TEXT[:5], PROMPT, PROMPT, sequence=2, opening=BY_IDS))
    context.append(TEXT[3])
    context.prune()
    assert (context.held, context.through) == (4, 4)
    assert lines(context) == [list(TEXT[:5])]


def test_a_body_that_knows_more_than_is_here_is_ahead() -> None:
    context = fresh()
    assert context.apply(decided(PROMPT, sequence=1)) is Standing.APPLIED
    assert context.apply(draft(TEXT[:6], 5, 5, sequence=3)) is Standing.AHEAD
    assert lines(context) == []
    assert context.apply(decided(5, PROMPT, sequence=2)) is Standing.APPLIED
    assert lines(context) == [list(TEXT[:6])]


def test_a_final_word_on_a_draft_that_waits_is_not_forgotten() -> None:
    """Where the prefix before both comes last."""
    context = fresh()
    context.apply(draft(TEXT[:5], PROMPT, PROMPT, sequence=2))
    context.apply(decided(4, PROMPT, sequence=3))
    context.apply(decided(PROMPT, sequence=1))
    assert context.tokens == list(TEXT[:4])
