"""The edge's own record: blocks cut from it cover every node once, and only news of its own prefix
is believed.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.edge.chain import Chain
from shared.errors import CloudLost
from shared.protocol.digest import extend_all, root_digest
from shared.protocol.messages import (
    Disagreement,
    HiddenBlock,
    Opening,
    Pressure,
    Report,
    Sampling,
    Want,
)
from shared.protocol.wire import canonical
from shared.quantization import encode

HIDDEN = 4
VOCABULARY = 1000
OPENING = Opening(
    fingerprint="f00d",
    trunk_format="fp32",
    sampler_version=1,
    depth=4,
    split=1,
    mode="collaborative",
    codec="fp32",
    prompt_tokens=1,
    max_positions=64,
    sampling=Sampling(),
)
ROOT = root_digest("f00d", "s", canonical(OPENING))


def rows(tokens: Sequence[int]) -> HiddenBlock:
    """A state of each token's own."""
    return encode(torch.tensor([[float(t)] * HIDDEN for t in tokens]), "fp32")


def chain(*tokens: int) -> Chain:
    made = Chain("s", OPENING, hidden=HIDDEN, vocab=VOCABULARY)
    if tokens:
        made.extend(tokens, rows(tokens))
    return made


def report(through: int, tokens: Sequence[int], held: Sequence[int]) -> Report:
    """A report of a cloud that holds `held`."""
    return Report(
        session="s",
        revision=0,
        sequence=1,
        through=through,
        digest=[ROOT, *extend_all(ROOT, held)][-1],
        tokens=tuple(tokens),
        pressure=Pressure(queued=0, allowed_nodes=0),
    )


def test_the_first_block_opens_the_session_with_everything() -> None:
    made = chain(5, 6, 7)
    block = made.cut(want=Want.NOW, count=1)
    assert (block.start, block.tokens, block.binding) == (0, (5, 6, 7), 3)
    assert (block.parent, block.opening, block.states) == (ROOT, OPENING, rows((5, 6, 7)))
    assert (block.want, block.count, block.sequence) == (Want.NOW, 1, 1)
    assert made.sent == made.end == 3


def test_an_open_session_is_not_opened_again_until_it_is_lost() -> None:
    made = chain(5)
    made.cut(want=Want.NOTHING)
    made.opened = True
    made.extend((6,), rows((6,)))
    assert made.cut(want=Want.NOTHING).opening is None
    made.unsend(1)
    assert made.cut(want=Want.NOTHING).opening is None
    made.unsend(0)
    again = made.cut(want=Want.NOTHING)
    assert (again.opening, again.tokens, again.states) == (OPENING, (5, 6), rows((5, 6)))


def test_a_block_with_nothing_new_carries_neither_tokens_nor_states() -> None:
    made = chain(5, 6)
    made.cut(want=Want.NOTHING)
    block = made.cut(want=Want.NOW, count=1)
    assert (block.start, block.tokens, block.states, block.binding) == (2, (), None, 2)
    assert block.parent == extend_all(ROOT, (5, 6))[-1]


@given(data=st.data())
def test_blocks_cover_every_node_however_often_they_are_lost(data: st.DataObject) -> None:
    made, held, sequence = chain(), 0, 0
    for step in data.draw(
        st.lists(st.sampled_from(["extend", "cut", "lose", "need"]), max_size=20)
    ):
        if step == "extend":
            made.extend((made.end, made.end + 1), rows((made.end, made.end + 1)))
        elif step == "need":
            made.unsend(data.draw(st.integers(0, held)))
        else:
            before = made.sent
            block = made.cut(want=Want.NOTHING)
            assert block.sequence == sequence + 1
            sequence = block.sequence
            assert block.tokens == tuple(range(block.start, made.end))
            assert block.parent == [ROOT, *extend_all(ROOT, range(made.end))][block.start]
            assert block.states == (rows(block.tokens) if block.tokens else None)
            assert block.start <= held, "a gap nobody asked about"
            if step == "lose":
                made.unsend(before)
            else:
                held = made.end
    assert made.sent <= made.end


def test_unsending_never_marks_anything_as_sent() -> None:
    made = chain(5, 6)
    made.unsend(9)
    assert made.sent == 0


def test_news_are_the_tokens_beyond_the_chain() -> None:
    made = chain(5, 6)
    assert list(made.next_tokens(report(3, (9,), (5, 6, 9)))) == [9]
    assert list(made.next_tokens(report(4, (6, 9, 8), (5, 6, 9, 8)))) == [9, 8]


@pytest.mark.parametrize("through", [0, 1, 2])
def test_a_report_of_the_past_is_no_news(through: int) -> None:
    made = chain(5, 6)
    assert list(made.next_tokens(report(through, (5, 6)[:through], (5, 6)[:through]))) == []


def test_a_report_that_leaves_tokens_out_is_not_believed() -> None:
    with pytest.raises(CloudLost) as lost:
        chain(5, 6).next_tokens(report(4, (8,), (5, 6, 9, 8)))
    assert lost.value.reason == "malformed"


@pytest.mark.parametrize("held", [(5, 7, 9), (5, 6, 8), (6, 5, 9)])
def test_a_report_of_another_prefix_is_not_believed(held: tuple[int, ...]) -> None:
    with pytest.raises(CloudLost) as lost:
        chain(5, 6).next_tokens(report(3, (9,), held))
    assert lost.value.reason == "diverged"


def test_a_chain_is_of_its_session_and_opening() -> None:
    others = [
        Chain("t", OPENING, hidden=HIDDEN, vocab=VOCABULARY),
        Chain("s", replace(OPENING, codec="fp16"), hidden=HIDDEN, vocab=VOCABULARY),
    ]
    assert len({made.digests[0] for made in [chain(), *others]}) == 3


def against(*disagreements: tuple[int, int]) -> Report:
    """A report on the chain 5, 6, 7, 8 that decides 9 and would have put other tokens before."""
    found = tuple(Disagreement(position=p, token=t) for p, t in disagreements)
    return replace(report(5, (9,), (5, 6, 7, 8, 9)), disagreements=found)


@pytest.mark.parametrize("disagreements", [(), ((0, 3),), ((1, 3), (0, 2))])
def test_without_a_word_against_what_is_open_the_chain_goes_on(
    disagreements: tuple[tuple[int, int], ...],
) -> None:
    for final in (None, 2):
        made = chain(5, 6, 7, 8)
        made.final = final
        assert made.settle(against(*disagreements), 9) == (4, 9)
        assert (made.tokens, made.acknowledged) == ([5, 6, 7, 8], 5)


def test_a_chain_that_takes_nothing_back_does_not_heed_disagreements() -> None:
    assert chain(5, 6, 7, 8).settle(against((2, 3)), 9) == (4, 9)


def test_the_first_open_disagreement_takes_the_chain_back() -> None:
    made, straight = chain(5, 6, 7, 8), chain(5, 6)
    made.final = 1
    made.cut(want=Want.NOW, count=1)
    made.opened = True
    assert made.settle(against((3, 1), (0, 4), (2, 3)), 9) == (2, 3)
    assert (made.tokens, made.digests, made.end) == (straight.tokens, straight.digests, 2)
    assert (made.states.slice(0, 2), made.states.end) == (rows((5, 6)), 2)
    assert (made.sent, made.acknowledged) == (2, 3)
    made.extend((3, 4), rows((3, 4)))
    block = made.cut(want=Want.NOTHING)
    assert (block.start, block.tokens, block.parent) == (2, (3, 4), straight.digests[2])
    assert (block.states, block.acknowledged) == (rows((3, 4)), 3)


@pytest.mark.parametrize("token", [7, VOCABULARY])
def test_a_disagreement_that_is_none_is_not_believed(token: int) -> None:
    made = chain(5, 6, 7, 8)
    made.final = 1
    with pytest.raises(CloudLost) as lost:
        made.settle(against((2, token)), 9)
    assert lost.value.reason == "malformed"
    assert made.tokens == [5, 6, 7, 8]


@pytest.mark.parametrize(("final", "binding"), [(None, 3), (1, 1), (3, 3), (4, 3)])
def test_what_may_be_taken_back_does_not_bind(final: int | None, binding: int) -> None:
    made = chain(5, 6, 7)
    made.final = final
    assert made.cut(want=Want.NOTHING).binding == binding
