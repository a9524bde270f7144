"""Training: what a step learns from, and that a resumed run equals an uninterrupted one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.backbone.checkpoint import load_checkpoint, save_checkpoint
from training.backbone.loop import StepReport, Trainer
from training.backbone.losses import joint_loss
from training.backbone.model import EarlyExitLlama, llama_config
from training.backbone.recipe import train
from training.backbone.schedule import Budget
from training.config import Objective, TrainingConfig
from training.text.corpus import prepare_corpus

TOKENS = 16 * 64  # 16 steps of 64 tokens, the second half of them in the second stage


@pytest.fixture
def started(text: Path, tmp_path: Path, tiny: TrainingConfig) -> Trainer:
    return _start(text, tmp_path / "cache", tiny)


def _start(text: Path, cache: Path, config: TrainingConfig, *, tokens: int = TOKENS) -> Trainer:
    corpus, _ = prepare_corpus(text, cache, config.mixture, vocabulary=config.size.vocabulary)
    torch.manual_seed(config.seed)
    model = EarlyExitLlama(llama_config(config.size, begin=0, end=1, pad=2), config.size.exits)
    return Trainer(model, corpus, config=config, budget=Budget(tokens=tokens), device="cpu")


def _run(trainer: Trainer) -> list[StepReport]:
    reports: list[StepReport] = []
    trainer.run(report=reports.append, save=lambda: None, save_every=1e9)
    return reports


def test_a_resumed_run_equals_an_uninterrupted_one(
    text: Path, tmp_path: Path, tiny: TrainingConfig
) -> None:
    whole = _start(text, tmp_path / "cache", tiny)
    losses = [report.losses for report in _run(whole)]

    stopped = _start(text, tmp_path / "cache", tiny)
    before = [stopped.step().losses for _ in range(7)]
    save_checkpoint(tmp_path / "run.pt", stopped)
    resumed = _start(text, tmp_path / "cache", tiny)
    torch.manual_seed(12345)  # nothing may depend on the generator that came with the process
    load_checkpoint(tmp_path / "run.pt", resumed)
    after = [report.losses for report in _run(resumed)]

    assert before + after == losses
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_lost_of_a_run_shows(text: Path, tmp_path: Path, tiny: TrainingConfig) -> None:
    whole = _start(text, tmp_path / "cache", tiny)
    losses = [report.losses for report in _run(whole)]
    stopped = _start(text, tmp_path / "cache", tiny)
    before = [stopped.step().losses for _ in range(7)]
    forgetful = _start(text, tmp_path / "cache", tiny)
    forgetful.model.load_state_dict(stopped.model.state_dict())
    forgetful.position = stopped.position
    after = [report.losses for report in _run(forgetful)]
    assert before + after != losses


def test_a_checkpoint_of_another_recipe_is_refused(
    text: Path, tmp_path: Path, tiny: TrainingConfig
) -> None:
    save_checkpoint(tmp_path / "run.pt", _start(text, tmp_path / "cache", tiny))
    other = _start(text, tmp_path / "cache", replace(tiny, seed=8))
    with pytest.raises(ValueError, match="another recipe"):
        load_checkpoint(tmp_path / "run.pt", other)


def test_a_save_that_fails_leaves_the_one_before(
    started: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, started)
    kept = path.read_bytes()

    def broken(_state: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, started)
    assert path.read_bytes() == kept


def test_the_losses_of_every_head_fall(text: Path, tmp_path: Path, tiny: TrainingConfig) -> None:
    reports = _run(_start(text, tmp_path / "cache", tiny, tokens=100 * 64))
    assert set(reports[0].losses) == {1, 2, 4}
    for layer in (1, 2, 4):
        assert reports[-1].losses[layer] < reports[0].losses[layer] - 1


def test_a_run_spends_its_budget_and_no_more(started: Trainer) -> None:
    reports = _run(started)
    assert started.progress == 1
    assert [report.position.tokens for report in reports] == list(range(64, TOKENS + 1, 64))
    assert [report.position.step for report in reports] == list(range(1, 17))


def test_every_step_skips_layers_anew_and_the_same_seed_alike(
    text: Path, tmp_path: Path, tiny: TrainingConfig
) -> None:
    def skipped() -> list[dict[int, list[int]]]:
        trainer = _start(text, tmp_path / "cache", tiny)
        seen: list[dict[int, list[int]]] = []

        def look(_model: nn.Module, given: tuple[Tensor, dict[int, Tensor]]) -> None:
            seen.append({layer: rows.tolist() for layer, rows in given[1].items()})

        trainer.model.register_forward_pre_hook(look)
        _run(trainer)
        return seen

    steps = skipped()
    assert skipped() == steps
    assert sum(step != steps[0] for step in steps) > len(steps) / 2
    assert not any(0 in step for step in steps)


def test_resuming_a_finished_run_exports_it_again(
    text: Path, tmp_path: Path, tiny: TrainingConfig
) -> None:
    reports: list[StepReport] = []
    out, work = tmp_path / "model", tmp_path / "work"
    train(text, out, work=work, budget=Budget(tokens=128), config=tiny, report=reports.append)
    weights = (out / "model.safetensors").read_bytes()
    train(
        text,
        out,
        work=work,
        budget=Budget(tokens=128),
        config=tiny,
        report=reports.append,
        resume=True,
    )
    assert len(reports) == 2
    assert (out / "model.safetensors").read_bytes() == weights


def _model(tiny: TrainingConfig) -> EarlyExitLlama:
    torch.manual_seed(0)
    return EarlyExitLlama(llama_config(tiny.size, begin=0, end=1, pad=2), tiny.size.exits)


def test_states_are_those_of_transformers_own_forward(tiny: TrainingConfig) -> None:
    model = _model(tiny)
    ids = torch.randint(0, 300, (2, 12))
    normed = model(ids)
    theirs = model.llama(ids, output_hidden_states=True)
    torch.testing.assert_close(model.logits(normed[4]), theirs.logits)
    for layer in (1, 2):
        expected = model.exit_norms[str(layer)](theirs.hidden_states[layer])
        torch.testing.assert_close(normed[layer], expected)


def test_long_windows_and_short_ones_are_read_alike(tiny: TrainingConfig) -> None:
    size = replace(tiny.size, max_positions=512)
    model = EarlyExitLlama(llama_config(size, begin=0, end=1, pad=2), size.exits)
    ids = torch.randint(0, 300, (1, 300))  # beyond where attention is computed another way
    torch.testing.assert_close(model(ids)[4][:, :200], model(ids[:, :200])[4])


def test_a_row_that_skips_a_layer_leaves_it_unchanged_and_others_alone(
    tiny: TrainingConfig,
) -> None:
    model = _model(tiny)
    ids = torch.randint(0, 300, (3, 8))
    everything, some = model(ids), model(ids, {0: torch.tensor([0, 2])})
    torch.testing.assert_close(some[1][[0, 2]], everything[1][[0, 2]])
    embedded = model.exit_norms["1"](model.llama.model.embed_tokens(ids))
    torch.testing.assert_close(some[1][1], embedded[1])
    nobody = model(ids, {0: torch.tensor([], dtype=torch.int64)})
    torch.testing.assert_close(nobody[1], embedded)


@pytest.mark.parametrize("distil", [0.0, 0.5, 1.0])
def test_an_exit_learns_from_text_and_end_in_the_share_asked(
    tiny: TrainingConfig, distil: float
) -> None:
    model = _model(tiny)
    ids = torch.randint(0, 300, (2, 9))
    taught = torch.tensor([0, 3, 5])
    normed = model(ids[:, :-1])
    total, losses = joint_loss(
        model, normed, ids[:, 1:], weights=(0.5, 1.5), taught_rows=taught, distil=distil
    )
    said = model.logits(normed[1]).flatten(0, 1)[taught].log_softmax(-1)
    end = model.logits(normed[4]).flatten(0, 1)[taught].softmax(-1)
    followed = -said[torch.arange(3), ids[:, 1:].flatten()[taught]]
    imitated = -(end * said).sum(-1)
    expected = ((1 - distil) * followed + distil * imitated).mean()
    torch.testing.assert_close(losses[1], expected)
    torch.testing.assert_close(total, (losses[4] + 0.5 * losses[1] + 1.5 * losses[2]) / 3)


def test_the_end_does_not_learn_from_its_exits(tiny: TrainingConfig) -> None:
    model = _model(tiny)
    ids = torch.randint(0, 300, (2, 9))
    _, losses = joint_loss(
        model,
        model(ids[:, :-1]),
        ids[:, 1:],
        weights=(1.0, 1.0),
        taught_rows=torch.arange(16),
        distil=1.0,
    )
    losses[1].backward()
    assert model.llama.model.norm.weight.grad is None
    assert all(p.grad is None for p in model.llama.model.layers[1].parameters())


def test_a_weight_per_exit_is_asked_for(tiny: TrainingConfig) -> None:
    with pytest.raises(ValueError, match="one weight per exit"):
        replace(tiny, objective=Objective(exit_weights=(1.0,)))
