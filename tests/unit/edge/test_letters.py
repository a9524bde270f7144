"""Blocks cut from drafts: every node once, on the parent it has, with the state it was given."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.drafts import Drafts
from services.edge.letters import cut
from shared.decoding.sampling import Ranking
from shared.protocol.messages import Block, Want
from tests.unit.edge.trees import PROMPT, Bench, coded, digest_of, new_drafts, opening

SURE = 2.0
FORK, NEXT = Ranking((1, 2), SURE), Ranking((8, 9), SURE)


@dataclass
class Reader:
    """Knows every node it was brought by digest alone, as a cloud does."""

    drafts: Drafts
    lines: dict[bytes, list[int]] = field(default_factory=dict)

    def read(self, blocks: Sequence[Block]) -> list[list[int]]:
        """The lines up to every node of a body."""
        decided = [self.drafts.tokens[:end] for end in range(self.drafts.end + 1)]
        known = {self._digest(line): line for line in decided} | self.lines
        found = []
        for block in blocks:
            line = known[block.parent]
            assert block.start == len(line)
            for row, token in enumerate(block.tokens):
                line = [*line, token]
                known[self._digest(line)] = self.lines[self._digest(line)] = line
                found.append(line)
                if block.states is not None:
                    width = len(block.states.payload) // block.states.shape[0]
                    mine = block.states.payload[row * width : (row + 1) * width]
                    assert mine == coded(line, len(line) - 1).payload
        return found

    def _digest(self, line: Sequence[int]) -> bytes:
        return digest_of(self.drafts.opening, line)


def forked(split: int = 1) -> Bench:
    """A prompt with two drafts after it, and two after each of these."""
    bench = Bench(new_drafts(opening(split)))
    bench.run(FORK)
    bench.run(NEXT, width=2)
    bench.run(Ranking((3,), SURE), width=4)
    return bench


@given(data=st.data(), split=st.sampled_from([1, 0]), opened=st.booleans())
def test_bodies_bring_every_node_once_and_parents_first(
    data: st.DataObject, split: int, opened: bool
) -> None:
    bench = Bench(new_drafts(opening(split, max_positions=20)))
    drafts, brought, sequence = bench.drafts, list[list[int]](), 0
    reader = Reader(drafts)
    drafts.opened = opened
    moves = data.draw(st.lists(st.sampled_from("ssdc"), max_size=16))
    for move in [*("" if split else "c"), *moves, "c"]:  # ids are on their way at once
        if move == "s":
            step = bench.begin(width=data.draw(st.integers(1, 4)))
            if step is not None:
                tokens = data.draw(st.permutations(range(1, 7)))
                bench.end(step, Ranking(tuple(tokens[:3]), SURE))
        elif move == "d" and drafts.end < 16:
            drafts.decide([data.draw(st.sampled_from([*drafts.root.children, 11]))])
        elif move == "c":
            blocks = cut(drafts, as_ids=False, want=Want.NOTHING)
            brought += reader.read(blocks)
            for block in blocks:
                assert (block.session, block.sequence) == ("s", sequence := sequence + 1)
                assert block.binding == block.acknowledged == drafts.end
                assert (block.states is not None) == bool(split and block.tokens)
            assert [block.opening is None for block in blocks[1:]] == [True] * (len(blocks) - 1)
            assert (blocks[0].opening is None) == opened
            assert drafts.unsent() == []
    held = {tuple(line) for line in brought}
    assert len(brought) == len(held)
    needed = drafts.states.end if split else len(PROMPT)
    assert {tuple(drafts.tokens[: n + 1]) for n in range(needed)} <= held


@pytest.mark.parametrize("split", [1, 0])
def test_a_tree_goes_as_the_prefix_and_a_run_of_nodes_for_each_branch(split: int) -> None:
    drafts = forked(split).drafts
    blocks = cut(drafts, as_ids=False, want=Want.NOW, count=3)
    assert [block.tokens for block in blocks] == [PROMPT, (1, 8), (2, 8), (9,), (9,)]
    on = [(), PROMPT, PROMPT, (*PROMPT, 1), (*PROMPT, 2)]
    assert [block.parent for block in blocks] == [digest_of(drafts.opening, line) for line in on]
    assert [block.start for block in blocks] == [0, 3, 3, 4, 4]
    assert [block.want for block in blocks] == [Want.NOTHING] * 4 + [Want.NOW]
    assert [block.count for block in blocks] == [0] * 4 + [3]
    assert [block.opening for block in blocks] == [drafts.opening, *[None] * 4]
    assert {block.binding for block in blocks} == {3}


def test_a_branch_of_what_was_sent_stands_on_it() -> None:
    bench = forked()
    cut(bench.drafts, as_ids=False, want=Want.NOTHING)
    bench.drafts.opened = True
    bench.run(Ranking((4,), SURE), width=2)
    [one, other] = cut(bench.drafts, as_ids=False, want=Want.NOTHING)
    tails = {(*PROMPT, 1, 8), (*PROMPT, 1, 9), (*PROMPT, 2, 8)}
    assert (one.tokens, other.tokens) == ((3,), (3,))
    assert {one.parent, other.parent} < {digest_of(bench.drafts.opening, tail) for tail in tails}
    assert one.opening is None


def test_with_nothing_new_a_body_only_asks() -> None:
    bench = forked()
    cut(bench.drafts, as_ids=False, want=Want.NOTHING)
    [block] = cut(bench.drafts, as_ids=False, want=Want.NOW, count=1)
    assert (block.tokens, block.states, block.start) == ((), None, 3)
    assert (block.want, block.count) == (Want.NOW, 1)
    assert block.parent == digest_of(bench.drafts.opening, PROMPT)


def test_tokens_whose_states_are_to_come_wait_for_them() -> None:
    bench = forked()
    cut(bench.drafts, as_ids=False, want=Want.NOTHING)
    bench.drafts.decide([1, 7])  # 7 was not run
    [block] = cut(bench.drafts, as_ids=False, want=Want.NOW, count=1)
    assert (block.tokens, block.start, block.binding, block.acknowledged) == ((), 4, 5, 5)
    bench.run(FORK)
    [block] = cut(bench.drafts, as_ids=False, want=Want.NOTHING)
    assert (block.tokens, block.start) == ((7,), 4)
    assert block.states == coded([*PROMPT, 1, 7], 4)


def test_a_prompt_may_go_as_ids_once_and_what_follows_carries_states() -> None:
    bench = Bench()
    drafts = bench.drafts
    [block] = cut(drafts, as_ids=True, want=Want.NOW, count=1)
    assert (block.tokens, block.states, block.opening) == (PROMPT, None, drafts.opening)
    assert drafts.sent == 3
    bench.run(FORK)
    bench.run(NEXT, width=1)
    blocks = cut(drafts, as_ids=True, want=Want.NOTHING)
    assert [block.tokens for block in blocks] == [(1,)]
    assert all(block.states is not None for block in blocks)
    drafts.unsend(0)  # the cloud has lost all: the states are here by now
    again = cut(drafts, as_ids=True, want=Want.NOTHING)
    assert again[0].states == coded(PROMPT)
    assert again[0].opening == drafts.opening


def test_without_its_states_nothing_of_a_prompt_goes() -> None:
    drafts = new_drafts()
    [block] = cut(drafts, as_ids=False, want=Want.NOTHING)
    assert (block.tokens, block.start, drafts.sent) == ((), 0, 0)


def test_asking_covers_what_was_sent_and_no_more() -> None:
    bench = forked()
    cut(bench.drafts, as_ids=False, want=Want.NOTHING)
    assert not any(node.asked for node, _ in bench.drafts.live)
    step = bench.begin(width=1)
    assert step is not None
    cut(bench.drafts, as_ids=False, want=Want.NOW, count=1)
    bench.end(step, NEXT)
    assert [node.asked for node in step.nodes] == [False]
    assert all(node.asked for node, _ in bench.drafts.live if node not in step.nodes)


@pytest.mark.parametrize("split", [1, 0])
def test_what_is_being_run_is_announced_and_sent_when_it_has_run(split: int) -> None:
    bench = forked(split)
    cut(bench.drafts, as_ids=False, want=Want.NOTHING)
    step = bench.begin(width=2)
    assert step is not None
    blocks = cut(bench.drafts, as_ids=False, want=Want.NOW, count=2, announce=True)
    assert blocks[-1].want is Want.NOW
    told = [block for block in blocks if block.tokens]
    # Without states there is nothing to wait for that the cloud could not make itself.
    assert [block.tokens for block in told] == ([(node.token,) for node in step.nodes] * split)
    assert all(block.states is None for block in told)
    bench.end(step, NEXT)
    blocks = cut(bench.drafts, as_ids=False, want=Want.NOTHING)
    assert [block.tokens for block in blocks] == [(node.token,) for node in step.nodes]
    assert all((block.states is not None) == bool(split) for block in blocks)


def test_unlikely_drafts_stay_until_they_are_likely_but_for_the_likeliest_path() -> None:
    bench = forked()
    drafts = bench.drafts
    chances = {id(node): chance for node, chance in drafts.live}
    likely = [node for node in drafts.unsent() if chances[id(node)] >= 0.3]
    path = [node for node in drafts.path() if not node.decided]
    assert 0 < len(likely) < len(drafts.unsent())
    assert [*drafts.unsent(0.3)] == [n for n in drafts.unsent() if n in likely or n in path]
    assert drafts.unsent(1.0) == path
    cut(drafts, as_ids=False, want=Want.NOW, count=1, least=1.0)
    assert all(node.sent and node.asked for node in path)
    rest = drafts.unsent()
    assert rest
    assert not any(node.sent for node in rest)
    tokens = {t for b in cut(drafts, as_ids=False, want=Want.NOTHING) for t in b.tokens}
    assert tokens == {node.token for node in rest}
