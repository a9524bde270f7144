"""A context takes in blocks in any order and any number of times, and nothing from a block it
refuses.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cloud.contexts import Context, Standing
from shared.errors import Malformed, Mismatch
from shared.protocol.messages import Block, Disagreement, Opening, Pressure
from tests.support.toy_model import VOCABULARY, WIDTH
from tests.unit.cloud.sessions import (
    CLOUD_OPENING,
    OPENING,
    SESSION,
    TEXT,
    block,
    coded,
    digest_of,
    snapshot,
)

IDLE = Pressure(queued=0, allowed_nodes=0)
END = len(TEXT)


def fresh(opening: Opening = OPENING) -> Context:
    return Context(SESSION, opening, hidden=WIDTH)


def holding(stop: int, opening: Opening = OPENING) -> Context:
    context = fresh(opening)
    assert context.apply(block(stop, opening=opening)) is Standing.APPLIED
    return context


def content(context: Context) -> dict[str, object]:
    """What a context knows of its session, whichever blocks it came by."""
    return {k: v for k, v in snapshot(context).items() if k not in {"sequence", "revision"}}


@given(
    cuts=st.lists(st.tuples(st.integers(0, END), st.integers(0, END)), max_size=8),
    opening=st.sampled_from([OPENING, CLOUD_OPENING]),
)
def test_overlapping_doubled_and_early_blocks_leave_what_one_block_would(
    cuts: list[tuple[int, int]], opening: Opening
) -> None:
    context = fresh(opening)
    held = 0
    for start, stop in [(min(cut), max(cut)) for cut in cuts] + [(0, END)]:
        standing = context.apply(block(stop, start, opening=opening))
        assert standing is (Standing.APPLIED if start <= held else Standing.AHEAD)
        held = max(held, stop) if start <= held else held
        assert context.through == held
    assert content(context) == content(holding(END, opening))


@given(start=st.integers(0, END), stop=st.integers(0, END))
def test_a_block_applied_twice_is_applied_once(start: int, stop: int) -> None:
    start, stop = sorted((start, stop))
    context = holding(start)
    again = block(stop, start)
    context.apply(again)
    before = snapshot(context)
    assert context.apply(again) is Standing.APPLIED
    assert snapshot(context) == before


def test_a_block_on_a_prefix_not_here_yet_changes_nothing() -> None:
    context = holding(3)
    before = snapshot(context)
    assert context.apply(block(6, 4)) is Standing.AHEAD
    assert snapshot(context) == before


def test_states_must_reach_as_far_as_the_tokens_a_block_stands_on() -> None:
    context = holding(4)
    context.append(TEXT[4])  # the cloud's own choice: a token without its state
    assert context.apply(block(7, 5)) is Standing.AHEAD
    assert context.apply(block(7, 4)) is Standing.APPLIED
    assert content(context) == content(holding(7)) | {"judged": 5}


def test_an_older_block_on_another_prefix_is_stale_and_a_newer_one_diverged() -> None:
    context = holding(5)
    before = snapshot(context)
    elsewhere = (*TEXT[:4], 6, 6)
    assert context.apply(block(6, 5, text=elsewhere, sequence=5)) is Standing.STALE
    assert context.apply(block(6, 5, text=elsewhere, sequence=6)) is Standing.DIVERGED
    assert snapshot(context) == before


def test_a_newer_block_supersedes_what_the_cloud_had_offered() -> None:
    context = holding(4)
    for token in (6, 6, 6):
        context.append(token)
    assert context.apply(block(6, 4, sequence=9)) is Standing.APPLIED
    assert context.tokens == list(TEXT[:6])
    assert context.digests == [digest_of(TEXT[:end]) for end in range(7)]
    assert context.states.slice(0, 6) == coded(TEXT, 0, 6)


def test_an_older_block_does_not_take_an_offer_back() -> None:
    context = holding(4)
    context.append(6)
    before = snapshot(context)
    assert context.apply(block(6, 4, sequence=4)) is Standing.STALE
    assert snapshot(context) == before


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("position", block(25, 3, text=TEXT * 3)),
        ("drafts", block(6, 3, binding=5)),
        ("shape", block(6, 3, states=None)),
        ("shape", block(6, 3, states=coded(TEXT, 3, 5))),
        ("shape", block(6, 3, states=coded(TEXT, 3, 7))),
        ("shape", block(3, 3, states=coded(TEXT, 3, 4))),
        ("codec", block(6, 3, states=replace(coded(TEXT, 3, 6), codec="int8"))),
        ("conflict", block(6, 1, text=(TEXT[0], 6, 6, 6, 6, 6), sequence=9)),
    ],
)
def test_a_block_that_contradicts_itself_or_the_past_leaves_no_trace(
    code: str, refused: Block
) -> None:
    context = holding(3)
    context.append(TEXT[3])
    before = snapshot(context)
    with pytest.raises(Malformed) as error:
        context.apply(refused)
    assert error.value.code == code
    assert snapshot(context) == before
    assert context.apply(block(END, 3)) is Standing.APPLIED
    assert context.states.slice(0, END) == coded(TEXT, 0, END)


def test_a_session_without_states_refuses_them() -> None:
    context = holding(3, CLOUD_OPENING)
    before = snapshot(context)
    with pytest.raises(Malformed) as error:
        context.apply(block(5, 3, opening=CLOUD_OPENING, states=coded(TEXT, 3, 5)))
    assert error.value.code == "shape"
    assert snapshot(context) == before


def test_a_confirmed_token_stays_and_an_offered_one_does_not() -> None:
    offered = holding(4, CLOUD_OPENING)
    offered.append(6)
    ours = block(5, 4, opening=CLOUD_OPENING, sequence=9)
    assert offered.apply(ours) is Standing.APPLIED
    assert offered.tokens == list(TEXT[:5])
    other = block(5, 4, text=(*TEXT[:4], 8), opening=CLOUD_OPENING, sequence=10)
    with pytest.raises(Malformed, match="position 4 was already confirmed"):
        offered.apply(other)


@given(end=st.integers(0, END), more=st.integers(0, END))
def test_a_truncated_context_is_as_if_the_rest_had_never_come(end: int, more: int) -> None:
    context = holding(END)
    for position in range(3, END):
        context.prefix_state(position)
        context.judge(position, chosen=6)
    context.truncate(end)
    kept = fresh()
    kept.apply(block(end))
    assert (context.tokens, context.digests) == (kept.tokens, kept.digests)
    assert context.states == kept.states
    assert context.judged == max(3, end)
    assert all(d.position < end for d in context.disagreements)
    other = (*TEXT[:end], *((token + 1) % VOCABULARY for token in TEXT[end:]))
    assert context.apply(block(END, end, text=other, sequence=END + 1)) is Standing.APPLIED
    kept.apply(block(END, end, text=other))
    position = max(3, more)
    assert context.prefix_state(position) == kept.prefix_state(position)


def test_the_fold_over_a_prefix_does_not_depend_on_what_was_asked_before() -> None:
    context = holding(END)
    for position in (4, 9, 5, 3, 10, 4):
        assert context.prefix_state(position) == holding(END).prefix_state(position)


def test_judging_counts_every_kept_token_once_and_names_the_disagreements() -> None:
    context = holding(6)
    assert context.judged == 3, "the prompt is not judged"
    for position, chosen in ((3, TEXT[3]), (4, 8), (5, 8)):
        context.judge(position, chosen)
    context.append(7)
    assert context.judged == 7, "the cloud's own choice needs no judging"
    report = context.report(acknowledged=5, held=5, seconds=0.0, pressure=IDLE)
    assert (report.judged, report.disagreed) == (3, 2)
    assert report.disagreements == (Disagreement(position=5, token=8),)


@given(steps=st.lists(st.sampled_from(["block", "append", "judge"]), max_size=12))
def test_reports_are_cumulative_and_only_grow(steps: list[str]) -> None:
    context = holding(3, CLOUD_OPENING)
    reports = [context.report(acknowledged=0, held=0, seconds=0.0, pressure=IDLE)]
    text = list(TEXT[:3])
    for step in steps:
        if step == "judge" and context.judged < context.through:
            context.judge(context.judged, chosen=6)
        elif step == "append":
            context.append(7)
            text.append(7)
        elif step == "block":
            text.append(4)
            end = len(text)
            context.apply(block(end, end - 1, text=text, opening=CLOUD_OPENING, sequence=end))
        reports.append(context.report(acknowledged=0, held=0, seconds=0.0, pressure=IDLE))
    for earlier, later in pairwise(reports):
        for name in ("through", "sequence", "judged", "disagreed", "passes"):
            assert getattr(later, name) >= getattr(earlier, name), name
        assert later.tokens[: len(earlier.tokens)] == earlier.tokens
    assert reports[-1].tokens == tuple(text)
    assert reports[-1].digest == digest_of(text, CLOUD_OPENING)


@pytest.mark.parametrize(("acknowledged", "tokens"), [(0, TEXT[:5]), (4, TEXT[4:5]), (9, ())])
def test_a_report_leaves_out_what_the_edge_holds(
    acknowledged: int, tokens: tuple[int, ...]
) -> None:
    report = holding(5).report(
        acknowledged=acknowledged, held=acknowledged, seconds=0.5, pressure=IDLE, need_from=2
    )
    assert (report.tokens, report.through, report.need_from) == (tokens, 5, 2)
    assert report.digest == digest_of(TEXT[:5])


@pytest.mark.parametrize(
    "change", [{"prompt_tokens": 2}, {"codec": "int8"}, {"mode": "collaborative"}]
)
def test_a_session_is_opened_once(change: dict[str, Any]) -> None:
    context = holding(3)
    context.require_same(replace(OPENING))
    with pytest.raises(Mismatch):
        context.require_same(replace(OPENING, **change))


def test_an_old_block_does_not_unconfirm_what_a_newer_one_had() -> None:
    context = holding(6)
    assert context.apply(block(3)) is Standing.APPLIED
    assert (context.confirmed, context.sequence) == (6, 6)
    with pytest.raises(Malformed, match="position 4 was already confirmed"):
        context.apply(block(5, 4, text=(*TEXT[:4], 8), sequence=9))


KEEPING = replace(OPENING, mode="collaborative")


def test_kept_tokens_that_do_not_bind_may_be_taken_back() -> None:
    context = fresh(KEEPING)
    context.apply(block(7, opening=KEEPING, binding=4, sequence=1))
    context.judge(5, 8)
    context.append(6)
    assert context.confirmed == 4
    other = (*TEXT[:5], 8, 1)
    again = block(7, 5, text=other, opening=KEEPING, binding=6, sequence=2)
    assert context.apply(again) is Standing.APPLIED
    assert (context.tokens, context.confirmed) == (list(other), 6)
    assert context.states.slice(0, 7) == coded(other, 0, 7)
    assert context.disagreements == []
    late = block(7, 4, opening=KEEPING, binding=4, sequence=1)
    assert context.apply(late) is Standing.STALE
    with pytest.raises(Malformed, match="position 5 was already confirmed"):
        context.apply(block(7, 5, opening=KEEPING, binding=7, sequence=3))
    assert context.tokens == list(other)


def test_a_prompt_cannot_be_taken_back() -> None:
    with pytest.raises(Malformed) as error:
        fresh(KEEPING).apply(block(7, opening=KEEPING, binding=KEEPING.prompt_tokens - 1))
    assert error.value.code == "drafts"
