"""The edge's tree: rows, parents, states and digests stay each other's whatever is decided when."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.chances import Chances
from services.edge.draft_tree import Decided
from shared.decoding.sampling import Ranking
from shared.errors import CloudLost
from shared.protocol.messages import Sampling
from tests.support.toy_model import EDGE_DEPTH, VOCABULARY
from tests.unit.edge.trees import END, PROMPT, SHARES, Bench, line_of, new_drafts, opening, report

SURE, UNSURE = 2.0, 0.5

rankings = st.builds(
    Ranking,
    tokens=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4, unique=True).map(tuple),
    lead=st.sampled_from([UNSURE, SURE]),
)


@given(data=st.data(), split=st.sampled_from([1, 0]))
def test_whatever_is_decided_when_rows_are_their_nodes_own(data: st.DataObject, split: int) -> None:
    bench = Bench(new_drafts(opening(split, max_positions=14)))
    drafts, under_way = bench.drafts, None
    accepted = drafted = 0
    for move in data.draw(st.lists(st.sampled_from("srrddx"), max_size=30)):
        if move == "s" and under_way is None:
            width, room = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 12))
            under_way = bench.begin(width=width, room=room)
            if under_way is not None:
                drafted += sum(not node.decided for node in under_way.nodes)
        elif move == "r" and under_way is not None:
            bench.end(under_way, *(data.draw(rankings) for _ in under_way.nodes))
            under_way = None
        elif move == "x" and under_way is not None:
            drafted -= sum(not node.decided for node in under_way.nodes)
            bench.drop(under_way)
            under_way = None
        elif move == "d" and drafts.end < drafts.opening.max_positions:
            known = [*drafts.root.children, *range(VOCABULARY)]
            token = data.draw(st.sampled_from(known))
            expected = token in drafts.root.children
            [outcome] = drafts.decide([token])
            assert (outcome.token, outcome.drafted) == (token, expected)
            accepted += expected
        bench.check()
    assert (drafts.accepted, drafts.drafted) == (accepted, drafted)


def test_the_prompt_goes_first_and_its_last_row_is_ranked() -> None:
    bench = Bench()
    step = bench.run(Ranking((3, 4), SURE))
    assert [node.token for node in step.nodes] == list(PROMPT)
    assert (step.base, step.keep, step.line, step.parents) == (0, [], 0, [-1, 0, 1])
    assert bench.drafts.states.end == len(PROMPT)
    bench.check()


def test_what_is_decided_and_was_not_run_goes_before_any_draft() -> None:
    """Tokens the cloud ran ahead with are caught up on in one batch."""
    bench = Bench()
    bench.run(Ranking((3, 4), SURE))
    bench.drafts.decide([8, 9, 1])
    step = bench.run(Ranking((2,), SURE), width=5)
    assert [(node.token, node.decided) for node in step.nodes] == [(8, True), (9, True), (1, True)]
    assert (step.keep, step.line, step.parents) == ([0, 1, 2], 3, [-1, 0, 1])
    assert bench.drafts.states.end == bench.drafts.end == 6
    assert [node.token for node in bench.run(Ranking((2,), SURE)).nodes] == [2]
    bench.check()


def test_the_likeliest_are_run_first_as_many_as_fit() -> None:
    bench = Bench()
    bench.run(Ranking((1, 2, 3, 4), UNSURE))  # 0.5, 0.25, 0.125, 0.0625
    first = bench.run(Ranking((8, 9), SURE), width=2)
    assert [node.token for node in first.nodes] == [1, 2]
    # 0.5 * 0.9, 0.25 * 0.9, then the third child of the root
    second = bench.run(Ranking((8, 9), SURE), width=3)
    lines = [line_of(bench.drafts, node)[3:] for node in second.nodes]
    assert lines == [[1, 8], [2, 8], [3]]
    assert second.parents == [-1, -1, 0, 1, -1]
    assert bench.begin(floor=0.5) is None
    assert bench.begin(room=5) is None
    limited = bench.begin(width=9, room=7, floor=0.1)
    assert limited is not None
    assert [line_of(bench.drafts, node)[3:] for node in limited.nodes] == [[1, 8, 8], [2, 8, 8]]


def test_nothing_is_drafted_after_an_end_nor_where_no_token_may_follow() -> None:
    bench = Bench(new_drafts(opening(max_positions=6)))
    bench.run(Ranking((END, 4), SURE))
    for _ in range(4):
        step = bench.begin(width=9)
        if step is None:
            break
        bench.end(step, Ranking((END, 4), SURE))
    drafted = [line_of(bench.drafts, node)[3:] for node, _ in bench.drafts.live][1:]
    # A draft at the last position would decide nothing.
    assert drafted == [[4], [4, 4]]


def test_a_decision_drops_what_stood_beside_it_and_keeps_what_follows() -> None:
    bench = Bench()
    bench.run(Ranking((1, 2), SURE))
    bench.run(Ranking((8, 9), SURE), width=2)
    bench.run(Ranking((3,), SURE), width=4)  # 1 8, 1 9, 2 8, 2 9
    assert bench.drafts.decide([2]) == [Decided(2, True, 0.05)]
    kept = [line_of(bench.drafts, node)[3:] for node, _ in bench.drafts.live]
    assert kept == [[2], [2, 8], [2, 9]]
    step = bench.run(Ranking((5,), SURE), width=1)
    assert (step.base, step.line) == (3, 4)
    assert [bench.rows[slot][3:] for slot in range(3, 7)] == [[2], [2, 8], [2, 9], [2, 8, 3]]
    assert step.parents == [-1, -1, 0]
    bench.check()


def test_what_falls_while_its_step_is_under_way_is_dropped_after_it() -> None:
    bench = Bench()
    bench.run(Ranking((1, 2), SURE))
    step = bench.begin(width=2)
    assert step is not None
    bench.drafts.decide([2, 7])  # one of those running, and one nobody drafted
    bench.end(step, Ranking((8,), SURE))
    assert bench.drafts.states.end == 4  # the state of 2 has come; that of 7 has not
    assert bench.drafts.unsent() == []
    after = bench.run(Ranking((8,), SURE), width=3)
    assert [node.token for node in after.nodes] == [7]
    assert (after.base, after.keep, after.line) == (3, [4], 4)
    bench.check()


def test_a_step_that_did_not_end_is_run_again() -> None:
    bench = Bench()
    prompt = bench.begin()
    assert prompt is not None
    bench.drop(prompt)
    bench.run(Ranking((1, 2), SURE))
    step = bench.begin(width=2)
    assert step is not None
    bench.drop(step)
    assert (bench.drafts.drafted, bench.drafts.root.children) == (0, {})
    bench.check()
    again = bench.run(Ranking((8,), SURE), width=2)
    assert [node.token for node in again.nodes] == [1, 2]
    bench.check()


def test_every_decision_teaches_what_the_ranking_was_worth() -> None:
    chances, expected = Chances((1.0,), SHARES), Chances((1.0,), SHARES)
    bench = Bench(new_drafts(chances=chances))
    bench.run(Ranking((1, 2), SURE))
    bench.run(Ranking((3, 4), UNSURE))
    bench.drafts.decide([1, 4, 9])  # 9 follows a node that was not run: nothing was said of it
    bench.run(Ranking((5, 6), UNSURE))
    bench.drafts.decide([9])
    for lead, rank in ((SURE, 0), (UNSURE, 1), (UNSURE, None)):
        expected.learn(lead, rank)
    assert [chances.of(lead) for lead in (SURE, UNSURE)] == [
        expected.of(lead) for lead in (SURE, UNSURE)
    ]


def test_a_report_moves_the_text_along_once() -> None:
    bench = Bench()
    bench.run(Ranking((1, 2), SURE))
    bench.run(Ranking((8, 9), SURE), width=1)
    drafts = bench.drafts
    news = report(drafts.opening, [*PROMPT, 1, 9], told=3)
    assert [each.token for each in drafts.apply(news)] == [1, 9]
    assert drafts.apply(news) == []
    assert drafts.apply(report(drafts.opening, [*PROMPT, 1], told=1)) == []
    assert drafts.tokens == [*PROMPT, 1, 9]
    bench.check()


@pytest.mark.parametrize(
    ("line", "told", "reason"),
    [
        ((*PROMPT, 1, 9), 1, "malformed"),  # a token is left out
        ((*PROMPT, VOCABULARY), 1, "malformed"),
        ((*PROMPT, *range(14)), 14, "malformed"),  # beyond what was agreed
        ((5, 6, 1, 9), 1, "diverged"),
    ],
)
def test_a_report_that_cannot_be_is_not_believed(
    line: tuple[int, ...], told: int, reason: str
) -> None:
    drafts = new_drafts()
    with pytest.raises(CloudLost) as lost:
        drafts.apply(report(drafts.opening, line, told=told))
    assert lost.value.reason == reason
    assert drafts.tokens == list(PROMPT)


def test_a_token_of_the_edges_own_is_to_be_sent() -> None:
    for split in (1, 0):
        bench = Bench(new_drafts(opening(split)))
        bench.run(Ranking((1, 2), SURE))
        bench.run(Ranking((8, 9), SURE))
        drafts = bench.drafts
        drafts.sent = drafts.end
        drafts.root.children[1].sent = True
        assert drafts.stand_in(1) == Decided(1, False, None)
        assert (drafts.sent, drafts.end) == (3, 4)
        assert drafts.accepted == 0


def test_a_decided_draft_that_was_sent_needs_no_sending() -> None:
    bench = Bench()
    bench.run(Ranking((1, 2), SURE))
    bench.run(Ranking((8, 9), SURE), width=2)
    drafts = bench.drafts
    drafts.sent = drafts.end
    drafts.root.children[1].sent = True
    drafts.decide([1])
    assert drafts.sent == 4
    drafts.decide([8])  # was not run, and not sent
    assert drafts.sent == 4
    ids = new_drafts(opening(0))
    ids.decide([4])
    assert ids.sent == 4  # the cloud decided it, and needs no state


def test_unsending_forgets_what_was_asked_of_later_nodes_alone() -> None:
    bench = Bench()
    bench.run(Ranking((1, 2), SURE))
    bench.run(Ranking((8, 9), SURE))
    bench.run(Ranking((8, 9), SURE))
    for node, _ in bench.drafts.live:
        node.sent = node.asked = True
    bench.drafts.sent = 3
    bench.drafts.unsend(4)
    seen = [(node.sent, node.asked) for node, _ in bench.drafts.live]
    assert seen == [(True, True), (True, True), (False, False)]
    assert bench.drafts.sent == 3
    assert [node.position for node in bench.drafts.unsent()] == [4]


def test_doubt_is_of_the_likeliest_line_nobody_was_asked_about() -> None:
    bench = Bench(new_drafts(opening(sampling=Sampling())))
    assert bench.drafts.doubt() == (1.0, 0)  # nothing was run
    bench.run(Ranking((1, 2), UNSURE))
    assert bench.drafts.doubt() == (0.5, 1)
    bench.run(Ranking((8, 9), SURE), width=2)
    chance, count = bench.drafts.doubt()
    assert chance == pytest.approx(0.45)
    assert count == 2
    bench.drafts.root.asked = True
    assert bench.drafts.doubt() == (0.9, 1)
    bench.drafts.root.children[1].asked = True
    assert bench.drafts.doubt() == (1.0, 0)


def test_drafts_are_of_their_session_and_opening() -> None:
    other = replace(opening(), codec="fp16")
    assert new_drafts().digests[-1] != new_drafts(other).digests[-1]


def test_what_cannot_be_sent_yet_is_no_reason_to_ask_and_is_announced() -> None:
    bench = Bench()
    prompt = bench.begin()
    assert prompt is not None
    count = len(prompt.nodes)
    bench.drafts.ran(prompt, [Ranking((1, 2), SURE)] * count, [EDGE_DEPTH] * count)
    assert bench.drafts.doubt() == (1.0, 0)
    bench.end(prompt, Ranking((1, 2), SURE))
    step = bench.begin()
    assert step is not None
    bench.drafts.root.asked = True
    bench.drafts.ran(step, [Ranking((8, 9), SURE)], [EDGE_DEPTH])
    after = bench.begin()
    assert after is not None
    assert bench.drafts.doubt()[1] == 0
    assert bench.drafts.running() == [*step.nodes, *after.nodes]
    bench.drafts.coded(step, None)
    assert bench.drafts.doubt()[1] == 1
    assert bench.drafts.running() == list(after.nodes)
