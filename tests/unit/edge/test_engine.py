"""The edge's engine keeps a step's size, charges a step by what each work ran, and lets only those
go without KV who have no room.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from services.edge.engine import EdgeEngine, Proposal, Proposing, Question
from shared.decoding.sampling import PrefixState, SamplingParameters
from shared.errors import OutOfMemory
from shared.model import LayerSpan, SpanModel, load_span
from shared.runtime.work import Failed
from tests.support.tiny_models import DEPTH as LAYERS
from tests.support.tiny_models import checkpoint

SPLIT, DEPTH = 1, 3


def engine_of(*, max_rows: int, depth: int = DEPTH) -> EdgeEngine:
    model: SpanModel = load_span(
        checkpoint("llama"),
        LayerSpan(0, depth, LAYERS),
        dtype=torch.float64,
        embedding=True,
        head=False,
        exits=sorted({SPLIT, depth}),
    )
    return EdgeEngine(model, SPLIT, max_rows=max_rows)


def asking(engine: EdgeEngine, ids: Sequence[int], *, sure_at_split: bool) -> Proposing:
    question = Question(
        sure=lambda asked: sure_at_split and asked[-1].layer == SPLIT,
        prefix=PrefixState.start(ids),
        parameters=SamplingParameters(),
        seed=0,
        index=0,
    )
    return Proposing(engine.new_state(), ids, question)


def finish(engine: EdgeEngine, work: Proposing, rows: int = 1000) -> tuple[Proposal, int]:
    """Step until `work` is complete; its proposal and the steps taken."""
    for steps in range(1, 100):
        [outcome] = engine.step([(work, min(rows, work.rows))])
        if isinstance(outcome, Proposal):
            return outcome, steps
        assert outcome is None, outcome
    raise AssertionError("never finished")


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_catching_up_is_chunked_and_proposes_the_same(rows: int) -> None:
    ids = [5, 9, 3, 7, 2, 8, 4, 6]
    whole, _ = finish(*_pair(engine_of(max_rows=100), ids))
    engine = engine_of(max_rows=rows)
    counted: list[int] = []
    forward = engine.model.forward
    engine.model.forward = lambda segments: (  # type: ignore[method-assign]
        counted.append(sum(s.rows for s in segments)) or forward(segments)  # type: ignore[func-returns-value]
    )
    chunked, steps = finish(*_pair(engine, ids), rows=rows)
    assert max(counted) <= rows
    assert steps >= len(ids) // rows
    assert whole.choice is not None
    assert chunked.choice is not None
    assert chunked.choice.token == whole.choice.token
    assert chunked.choice.confidence == pytest.approx(whole.choice.confidence, abs=1e-12)
    assert torch.allclose(chunked.states, whole.states, atol=1e-12)


def _pair(engine: EdgeEngine, ids: Sequence[int]) -> tuple[EdgeEngine, Proposing]:
    return engine, asking(engine, ids, sure_at_split=False)


def test_a_step_is_charged_by_rows_and_layers() -> None:
    engine = engine_of(max_rows=100)
    sure, unsure = (
        asking(engine, [5, 9, 3], sure_at_split=True),
        asking(engine, [7], sure_at_split=False),
    )
    engine.step([(sure, 3), (unsure, 1)])
    assert (sure.charge, unsure.charge) == (3 * SPLIT, 1 * DEPTH)


def test_only_the_work_without_room_goes_without() -> None:
    engine = engine_of(max_rows=500)
    small, large = (
        asking(engine, [5], sure_at_split=True),
        asking(engine, [5] * 100, sure_at_split=True),
    )
    cache = small.state.cache
    engine.model.kv_budget_bytes = cache.growth(range(SPLIT), 1)
    outcomes = engine.step([(small, 1), (large, 100)])
    assert isinstance(outcomes[0], Proposal)
    assert isinstance(outcomes[1], Failed)
    assert isinstance(outcomes[1].error, OutOfMemory)


def test_with_one_exit_nothing_is_kept_for_catching_up() -> None:
    engine = engine_of(max_rows=100, depth=SPLIT)
    work = asking(engine, [5, 9, 3, 7], sure_at_split=False)
    finish(engine, work)
    assert sum(map(len, work.state.behind)) == 1


@pytest.mark.parametrize("sure", [True, False])
@pytest.mark.parametrize("end", range(1, 7))
def test_what_was_dropped_leaves_nothing_in_what_comes_after(end: int, *, sure: bool) -> None:
    """Of six positions the first three went beyond the split, and the others too or not."""
    engine = engine_of(max_rows=100)
    ids, after = [5, 9, 3, 7, 2, 8], [4, 6]
    work = asking(engine, ids[:3], sure_at_split=False)
    finish(engine, work)
    finish(engine, _going_on(work, ids[3:], sure_at_split=sure))
    work.state.truncate(end)
    assert sum(map(len, work.state.behind)) == (max(0, end - 3) if sure else 0)
    again, _ = finish(engine, _going_on(work, after, sure_at_split=False))
    fresh, _ = finish(engine, asking(engine, [*ids[:end], *after], sure_at_split=False))
    assert again.choice is not None
    assert fresh.choice is not None
    assert again.choice.token == fresh.choice.token
    assert again.choice.confidence == pytest.approx(fresh.choice.confidence, abs=1e-12)
    assert torch.allclose(again.states, fresh.states[end:], atol=1e-12)


def _going_on(work: Proposing, ids: Sequence[int], *, sure_at_split: bool) -> Proposing:
    assert work.question is not None
    question = replace(work.question, sure=lambda asked: sure_at_split and asked[-1].layer == SPLIT)
    return Proposing(work.state, ids, question)
