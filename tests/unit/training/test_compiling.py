"""Compiled layers and losses learn what the uncompiled learn, where there is a compiler at all."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.support.size import Size
from training.backbone.compiling import can_compile
from training.backbone.loop import StepReport, Trainer
from training.backbone.model import EarlyExitLlama, llama_config
from training.backbone.recipe import train
from training.backbone.schedule import Budget
from training.config import TrainingConfig
from training.text.corpus import Corpus

TEXT = {"tales": np.arange(3000, dtype=np.uint16) % 293}


def _learn(config: TrainingConfig, steps: int) -> list[StepReport]:
    torch.manual_seed(0)
    model = EarlyExitLlama(llama_config(config.size, begin=0, end=1, pad=2), config.size.exits)
    trainer = Trainer(
        model,
        Corpus(TEXT, ""),
        config=replace(config, mixture={"tales": 1.0}),
        budget=Budget(tokens=steps * 64),
        device="cpu",
    )
    reports: list[StepReport] = []
    trainer.run(report=reports.append, save=lambda: None, save_every=1e9)
    return reports


@pytest.fixture
def still(tiny: TrainingConfig) -> TrainingConfig:
    """The tests' recipe without skipped layers."""
    return replace(tiny, objective=replace(tiny.objective, layer_dropout=0.0))


# Torch's tracing looks at gradients that are not there.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.timeout(900)
def test_a_compiled_run_loses_as_the_uncompiled_and_is_compiled_once_a_length(
    still: TrainingConfig, size: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The short run leaves out what writes and compiles C++, not what traces and divides the code.
    backend = CompileCounterWithBackend(size.pick(short="aot_eager", long="inductor"))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    plain = _learn(still, 4)
    compiled = _learn(replace(still, compiled=True), 4)
    for ours, theirs in zip(compiled, plain, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    # Twice (there are two lengths of window): four layers and the losses, each in one piece.
    assert backend.frame_count <= 2 * 5
    torch._dynamo.reset()


def test_nothing_is_compiled_where_there_is_no_compiler(
    text: Path, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not can_compile()
    monkeypatch.setattr(torch, "compile", None)
    monkeypatch.setattr(torch.nn.Module, "compile", None)
    seen: list[StepReport] = []
    train(
        text,
        tmp_path / "model",
        budget=Budget(tokens=1),
        start=trained,
        work=tmp_path / "work",
        report=seen.append,
    )
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["g++", "clang++"])
def test_a_compiler_is_found_on_the_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert can_compile()
