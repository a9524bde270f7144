"""Two processes that train together learn what one learns from the whole batch; with what the
processor has.
"""

import json
import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shared.model import packed
from tests.support.services import free_port
from tests.unit.training.conftest import tiny_config, write_text
from training import __main__ as command
from training.backbone.loop import Trainer
from training.backbone.model import EarlyExitLlama, llama_config
from training.backbone.recipe import train
from training.backbone.schedule import Budget
from training.backbone.workers import Workers
from training.config import TrainingConfig
from training.text.corpus import Corpus
from training.text.instructions import use_all_instructions

BUDGET = Budget(tokens=6 * 64)


def _train(rank: int, count: int, port: int, folder: Path) -> None:
    """Train on `folder`/text into `folder`/`count`, as one of `count` processes."""
    with pytest.MonkeyPatch.context() as environment:
        names = {"RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        for name, value in (*names.items(), ("MASTER_ADDR", "127.0.0.1")):
            environment.setenv(name, str(value))
        # What is drawn by chance in each process is left out: the same positions learn.
        config = tiny_config()
        config = replace(
            config, objective=replace(config.objective, exit_rows=1.0, layer_dropout=0.0)
        )
        seen: list[dict[int, float]] = []
        train(
            folder / "text",
            folder / str(count),
            budget=BUDGET,
            config=config,
            work=folder / f"work-{count}",
            report=lambda step: seen.append(step.losses),
        )
        losses = [list(each.values()) for each in seen]
        (folder / f"losses-{count}-{rank}.json").write_text(json.dumps(losses))
        if dist.is_initialized():
            # Step sizes do not follow the gradients' size, so the losses do not show it.
            line = nn.Linear(2, 1)
            line.weight.grad = torch.tensor([[1.0, -4.0]]) * (1 + 2 * rank)
            Workers(rank, count).average_gradients(line)
            (folder / f"mean-{rank}.json").write_text(json.dumps(line.weight.grad.tolist()))
            dist.destroy_process_group()


@pytest.mark.timeout(900)
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    port, fresh = free_port(), multiprocessing.get_context("spawn")
    other = fresh.Process(target=_train, args=(1, 2, port, tmp_path))
    other.start()
    try:
        _train(0, 1, 0, tmp_path)
        _train(0, 2, port, tmp_path)
        other.join()
    finally:
        other.kill()
    assert other.exitcode == 0
    losses, theirs, silent, *means = (
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("losses-1-0", "losses-2-0", "losses-2-1", "mean-0", "mean-1")
    )
    np.testing.assert_allclose(theirs, losses, rtol=1e-4)
    assert means == [[[2, -8]]] * 2
    assert not silent  # one of them shows, saves and exports


@given(count=st.integers(1, 8), each=st.integers(1, 5))
def test_the_parts_of_a_batch_are_the_batch(count: int, each: int) -> None:
    batch = np.arange(count * each * 3).reshape(-1, 3)
    parts = [Workers(rank, count).part(batch) for rank in range(count)]
    assert {len(part) for part in parts} == {each}
    assert sorted(np.concatenate(parts).tolist()) == batch.tolist()


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ValueError, match="7 rows"):
        Workers(0, 2).part(np.zeros((7, 3)))


def test_positions_and_skipped_rows_are_drawn_anew_in_every_process(
    tiny: TrainingConfig,
) -> None:
    model = EarlyExitLlama(llama_config(tiny.size, begin=0, end=1, pad=2), tiny.size.exits)
    drawn = [
        Trainer(
            model,
            Corpus({}, ""),
            config=tiny,
            budget=BUDGET,
            device="cpu",
            workers=Workers(rank, 2),
        )._draw(8, 32)
        for rank in (0, 0, 1)
    ]
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][1], drawn[2][1])


@pytest.mark.parametrize(
    ("before", "after"),
    [(packed.HELD_TO, "DEFAULT"), ("AVX2", "AVX2"), ("DEFAULT", "DEFAULT"), (None, None)],
)
def test_training_lifts_what_serving_holds_the_processor_to_and_nothing_else(
    before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(packed.INSTRUCTIONS, raising=False)
    if before is not None:
        monkeypatch.setenv(packed.INSTRUCTIONS, before)
    use_all_instructions()
    assert os.environ.get(packed.INSTRUCTIONS) == after


def test_the_command_trains_with_all_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(packed.INSTRUCTIONS, packed.HELD_TO)
    monkeypatch.setattr(sys, "argv", ["training", "--help"])
    with pytest.raises(SystemExit, match="0"):
        command.main()
    assert os.environ[packed.INSTRUCTIONS] == "DEFAULT"


def test_batches_that_cannot_be_shared_out_are_refused_before_any_is_made() -> None:
    Workers(0, 4).require_fair([32, 16, 4])
    with pytest.raises(ValueError, match="4 rows cannot be shared out among 8 processes"):
        Workers(0, 8).require_fair([32, 16, 4])
