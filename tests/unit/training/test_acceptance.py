"""Acceptance is counted as a session would see it, and gaps are told with their true shares."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from shared.model.exits import GapTable
from tests.support.tiny_models import whole
from training.calibration.acceptance import Drafts, as_texts, calibrate, read_drafts
from training.evaluation.writing import GREEDY, KINDS, SAMPLED, write_on

PROMPTS = [[5, 6, 7], [8, 9, 10, 11], [12]]


def drafts(ranks: Sequence[int], gaps: Sequence[float] = (), starts: Sequence[int] = ()) -> Drafts:
    count = len(ranks)
    return Drafts(
        np.array(ranks),
        np.array(gaps or [1.0] * count),
        np.ones(count, dtype=np.float32),
        np.array(ranks) == 0,
        np.isin(np.arange(count), [0, *starts]),
    )


def test_what_is_written_is_one_text_whoever_is_beside_it() -> None:
    model = whole("llama")
    together = write_on(model, PROMPTS, 6, end=None, parameters=SAMPLED)
    assert [len(answer) for answer in together] == [6, 6, 6]
    assert write_on(model, PROMPTS[:1], 6, end=None, parameters=SAMPLED) == together[:1]
    ended = write_on(model, PROMPTS, 6, end=together[1][2], parameters=SAMPLED)
    assert ended[1] == together[1][: together[1].index(together[1][2]) + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_itself_would_be_accepted_always(kind: str) -> None:
    model = whole("llama", exits=(5,))  # untrained, behind the last layer: the end again
    texts = as_texts(PROMPTS, write_on(model, PROMPTS, 8, end=None, parameters=KINDS[kind]))
    found = read_drafts(model, (5,), texts, KINDS[kind])[5]
    assert found.acceptance == 1
    assert found.starts.sum() == 3
    other = read_drafts(model, (5,), texts, SAMPLED if kind == "greedy" else GREEDY)[5]
    assert other.acceptance < 1


def test_runs_end_at_a_wrong_draft_and_at_the_end_of_a_text() -> None:
    assert drafts([0, 0, 1, 0, 4, 2, 0, 0, 0], starts=[7]).runs == [2, 1, 0, 1, 2]
    assert drafts([1]).runs == [0]


def test_coverage_counts_the_best_alternatives() -> None:
    found = drafts([0, 0, 1, 2, 4])
    assert [found.coverage(count) for count in (1, 2, 3, 4)] == [0.4, 0.6, 0.8, 0.8]
    assert found.acceptance == 0.4


def test_a_gap_finds_the_shares_of_its_own_bin() -> None:
    gaps = np.arange(800) / 100
    ranks = np.where(gaps < 4, np.arange(800) % 4, 0)
    table = calibrate(drafts(ranks.tolist(), gaps.tolist()))
    assert len(table.gaps) == 7
    assert table.chances(0.5) == (0.25, 0.25, 0.25, 0.25)
    assert table.chances(float("inf")) == (1, 0, 0, 0)


def test_gaps_that_are_all_alike_or_infinite_make_one_bin_or_two() -> None:
    assert calibrate(drafts([0, 4], [np.inf, np.inf])) == GapTable((), ((0.5, 0, 0, 0),))
    table = calibrate(drafts([0, 1, 4, 4], [2.0, 2.0, 2.0, 1.0]))
    assert sum(map(len, table.ranks)) == 4 * (len(table.gaps) + 1)


@pytest.mark.parametrize(
    ("gaps", "ranks"),
    [
        ((1.0,), ((0.5,),)),
        ((2.0, 1.0), ((0.5,), (0.5,), (0.5,))),
        ((), ((1.5,),)),
        ((1.0,), ((0.5,), (0.5, 0.1))),
    ],
)
def test_a_table_that_is_none_is_refused(
    gaps: tuple[float, ...], ranks: tuple[tuple[float, ...], ...]
) -> None:
    with pytest.raises(ValueError, match="rows"):
        GapTable(gaps, ranks)


def test_what_depends_on_the_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix"):
        write_on(
            whole("llama"), PROMPTS, 2, end=None, parameters=replace(GREEDY, repetition_penalty=2.0)
        )
    assert torch.is_grad_enabled()
