"""Everything that changes during training is a function of how much of the budget is spent."""

import itertools

import pytest

from training.backbone import schedule
from training.backbone.schedule import Budget
from training.config import ModelSize, Objective, Optimisation, Stage

PLAN = Optimisation(warmup=0.1, decay_from=0.5)
GRID = [n / 100 for n in range(101)]


@pytest.mark.parametrize(
    ("budget", "progress"), [(Budget(minutes=2), 0.25), (Budget(tokens=1000), 0.5)]
)
def test_a_budget_counts_its_own_unit(budget: Budget, progress: float) -> None:
    assert budget.progress(seconds=30, tokens=500) == progress
    assert budget.progress(seconds=1e9, tokens=10**9) == 1


@pytest.mark.parametrize("given", [{}, {"minutes": 1.0, "tokens": 1}])
def test_a_budget_is_of_one_unit(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="minutes or of tokens"):
        Budget(**given)


def test_the_rate_warms_up_holds_and_decays_to_nothing() -> None:
    rates = [schedule.rate(progress, PLAN) for progress in GRID]
    assert 0 < rates[0] < 0.1
    assert rates[10:51] == [1.0] * 41
    assert all(a < b for a, b in itertools.pairwise(rates[1:11]))
    assert all(a > b for a, b in itertools.pairwise(rates[50:]))
    assert rates[-1] == 0


def test_a_stage_lasts_until_the_next_begins() -> None:
    stages = (Stage(begins=0, rows=4, length=8), Stage(begins=0.5, rows=1, length=32))
    lengths = [schedule.stage(progress, stages).length for progress in (0, 0.49, 0.5, 1)]
    assert lengths == [8, 8, 32, 32]


def test_exits_turn_from_the_text_to_the_end() -> None:
    plan = Objective(distil_from=0.25, distil_full=0.75)
    shares = [schedule.distil(progress, plan) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert shares == [0, 0, 0.5, 1, 1]


def test_layers_are_skipped_the_more_the_deeper_they_lie() -> None:
    plan = Objective(layer_dropout=0.1)
    chances = [schedule.layer_dropout(layer, 12, plan) for layer in range(12)]
    assert chances[0] == 0
    assert chances[-1] == pytest.approx(0.1)
    assert all(a < b for a, b in itertools.pairwise(chances))


@pytest.mark.parametrize(
    "wrong", [{"exits": (12,)}, {"exits": (0,)}, {"exits": (6, 3)}, {"vocabulary": 70_000}]
)
def test_an_impossible_model_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"lie inside|must rise|do not fit"):
        ModelSize(**wrong)  # type: ignore[arg-type]
