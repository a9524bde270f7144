"""Training further: from a checkpoint's weights and tokenizer, on stages of their own mixtures."""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from training.backbone import recipe
from training.backbone.continuation import BROAD, ENDING, continuation
from training.backbone.export import export
from training.backbone.loop import StepReport, Trainer
from training.backbone.model import EarlyExitLlama, llama_config
from training.backbone.recipe import train
from training.backbone.schedule import Budget
from training.backbone.start import Start
from training.config import ModelSize, Stage, TrainingConfig
from training.evaluation.card import write_card
from training.evaluation.perplexity import evaluate
from training.evaluation.reading import identity
from training.evaluation.tuning import tune_thresholds
from training.text.corpus import Corpus
from training.text.tokenizer import load_tokenizer

BUDGET = Budget(tokens=8 * 64)


@pytest.fixture
def further(tiny: TrainingConfig) -> TrainingConfig:
    """The tests' recipe with a mixture for each of its two stages."""
    mixtures = ({"tales": 0.9, "talk": 0.1}, {"talk": 1.0})
    stages = zip(tiny.stages, mixtures, strict=True)
    return replace(tiny, stages=tuple(replace(stage, mixture=mix) for stage, mix in stages))


def _model(tiny: TrainingConfig) -> EarlyExitLlama:
    return EarlyExitLlama(llama_config(tiny.size, begin=0, end=1, pad=2), tiny.size.exits)


def test_a_model_begins_with_the_weights_that_were_exported(
    trained: Path, tiny: TrainingConfig, tmp_path: Path
) -> None:
    start, model = Start.read(trained), _model(tiny)
    assert start.size == tiny.size
    with torch.no_grad():
        for weight in model.exit_norms.parameters():
            weight.fill_(7.0)
    start.load_into(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    export(model, load_tokenizer(trained), tmp_path / "again", training={})
    for name in ("model.safetensors", "exits.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes(), name


def test_weights_of_another_size_are_refused(trained: Path, tiny: TrainingConfig) -> None:
    other = replace(tiny, size=replace(tiny.size, exits=(1, 3)))
    with pytest.raises(RuntimeError, match=r"3\.weight"):
        Start.read(trained).load_into(_model(other))


def test_what_a_run_began_with_is_written_down(
    text: Path, trained: Path, held_out: Path, tmp_path: Path, further: TrainingConfig
) -> None:
    losses: list[dict[int, float]] = []
    folder = trained
    for name in ("second", "third"):
        train(
            text,
            tmp_path / name,
            budget=BUDGET,
            start=folder,
            config=further,
            work=tmp_path / "work",
            report=lambda step: losses.append(step.losses),
        )
        folder = tmp_path / name
    first, second, third = (
        json.loads((each / "training.json").read_text())
        for each in (trained, tmp_path / "second", folder)
    )
    assert first["started_from"] is None
    assert second["started_from"] == {
        "name": trained.name,
        "model_fingerprint": json.loads((trained / "exits.json").read_text())["model_fingerprint"],
        "tokens": first["tokens"],
    }
    assert third["started_from"]["tokens"] == first["tokens"] + second["tokens"]
    assert (second["budget"], second["processes"]) == ({"tokens": BUDGET.tokens}, 1)
    assert losses[0][4] < 4 < np.log(300)  # not as much as weights at random lose
    assert (folder / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    tune_thresholds(folder, held_out, tokens=16)
    evaluate(folder, held_out)
    assert "before |" not in write_card(folder).read_text()
    earlier, scores = evaluate(trained, held_out), evaluate(folder, held_out, before=trained)
    card = write_card(folder).read_text()
    then, now = (f"{found['stories'].perplexity[4]:.1f}" for found in (earlier, scores))
    assert then != now
    assert f"| {now} | {then} |" in card
    assert f"by the weights of fingerprint `{identity(trained)[:12]}`" in card
    assert f"--start START --tokens {BUDGET.tokens} --seed 7" in card
    assert f"the second of fingerprint `{third['started_from']['model_fingerprint'][:12]}`" in card


class _Killed(Exception):
    pass


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_run_killed_and_resumed_makes_the_weights_of_one_that_was_not(
    steps: int,
    text: Path,
    trained: Path,
    tmp_path: Path,
    further: TrainingConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recipe, "SAVE_EVERY_SECONDS", 0.0)

    def run(name: str, *, stop: int | None = None, resume: bool = False) -> list[dict[int, float]]:
        seen: list[dict[int, float]] = []

        def watch(step: StepReport) -> None:
            # Saving comes after reporting: what this step learned is lost, and learned again.
            if stop is not None and len(seen) == stop:
                raise _Killed
            seen.append(step.losses)

        train(
            text,
            tmp_path / name,
            budget=BUDGET,
            start=trained,
            config=further,
            resume=resume,
            work=tmp_path / "work",
            report=watch,
        )
        return seen

    whole = run("whole")
    with pytest.raises(_Killed):
        run("broken", stop=steps)
    assert run("broken", resume=True) == whole[steps:]
    for name in ("model.safetensors", "exits.safetensors"):
        ours, theirs = (load_file(tmp_path / each / name) for each in ("broken", "whole"))
        assert all(torch.equal(ours[weight], theirs[weight]) for weight in theirs)


def test_a_run_is_not_resumed_from_another_start(
    text: Path, trained: Path, tmp_path: Path, further: TrainingConfig
) -> None:
    out, work = tmp_path / "model", tmp_path / "work"
    train(text, out, budget=BUDGET, start=trained, config=further, work=work)
    with pytest.raises(ValueError, match="another recipe"):
        train(text, out, budget=BUDGET, start=out, config=further, work=work, resume=True)


def test_a_stage_reads_the_sources_of_its_mixture_alone(tiny: TrainingConfig) -> None:
    stages = (
        Stage(begins=0.0, rows=4, length=16),
        Stage(begins=0.25, rows=4, length=16, mixture={"talk": 1.0}),
        Stage(begins=0.5, rows=4, length=16, mixture={"tales": 1.0}),
        Stage(begins=0.75, rows=4, length=16),
    )
    config = replace(tiny, stages=stages, mixture={"tales": 0.5, "talk": 0.5})
    sources = {"tales": np.full(50, 5, np.uint16), "talk": np.full(50, 9, np.uint16)}
    read: list[Counter[int]] = []
    model = _model(tiny)
    model.register_forward_pre_hook(lambda _, given: read.append(Counter(given[0][:, 0].tolist())))
    trainer = Trainer(
        model, Corpus(sources, ""), config=config, budget=Budget(tokens=64 * 64), device="cpu"
    )
    trainer.run(report=lambda _: None, save=lambda: None, save_every=1e9)
    parts = [sum(read[first : first + 16], Counter()) for first in range(0, 64, 16)]
    assert [set(part) for part in parts] == [{5, 9}, {9}, {5}, {5, 9}]


def test_a_stage_reads_nothing_that_the_recipe_does_not_name(tiny: TrainingConfig) -> None:
    stage = Stage(begins=0.0, rows=4, length=16, mixture={"tales": 0.5, "ballads": 0.5})
    with pytest.raises(ValueError, match=r"\['ballads'\]"):
        replace(tiny, stages=(stage,))


def test_the_mixture_of_a_continuation_is_what_its_stages_read() -> None:
    config = continuation(ModelSize(), BROAD | ENDING)
    ends = [*(stage.begins for stage in config.stages[1:]), 1.0]
    read: defaultdict[str, float] = defaultdict(float)
    for stage, end in zip(config.stages, ends, strict=True):
        assert stage.rows * stage.length == 8192
        assert sum((stage.mixture or {}).values()) == pytest.approx(1)
        for source, share in (stage.mixture or {}).items():
            read[source] += (end - stage.begins) * share
    assert config.mixture == pytest.approx(dict(read))
    assert sum(config.mixture.values()) == pytest.approx(1)


@given(
    exits=st.sets(st.integers(1, 11)).map(lambda layers: tuple(sorted(layers))),
    shares=st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0.1, 1), min_size=1),
)
def test_other_text_and_other_exits_are_continued_on_as_they_are(
    exits: tuple[int, ...], shares: dict[str, float]
) -> None:
    config = continuation(ModelSize(exits=exits), shares, seed=3)
    assert config.mixture == shares
    assert all(stage.mixture is None for stage in config.stages)
    assert config.seed == 3
    assert len(config.objective.exit_weights) == len(exits)


def test_exits_that_were_taught_afterwards_are_no_start(
    trained: Path, tiny: TrainingConfig
) -> None:
    learned = load_file(trained / "exits.safetensors")
    learned["exits.1.translator.weight"] = torch.eye(2)
    save_file(learned, trained / "exits.safetensors")
    with pytest.raises(ValueError, match="have translators"):
        Start.read(trained).load_into(_model(tiny))
