"""The training loop: one step, and the steps until the budget is spent.

Randomness is a function of the seed and the step (windows, skipped layers, taught positions), so
that a resumed run equals an uninterrupted one. It reports what it does to a callback and saves
through a callback; it knows neither files nor the terminal.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer

from training.backbone import schedule
from training.backbone.checkpoint import Position
from training.backbone.compiling import compile_model
from training.backbone.losses import joint_loss
from training.backbone.model import EarlyExitLlama
from training.backbone.workers import ALONE, Workers
from training.config import Optimisation, TrainingConfig
from training.text.corpus import Corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did: losses in nats by layer (the end under the model's depth)."""

    position: Position
    progress: float
    losses: dict[int, float]
    tokens_per_second: float
    rate: float


def make_optimisers(model: EarlyExitLlama, plan: Optimisation) -> list[Optimizer]:
    """Muon (Jordan et al., 2024) for the layers' matrices, AdamW for embedding and norms."""
    matrices = [p for p in model.llama.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        Muon(matrices, lr=plan.muon_rate, weight_decay=plan.weight_decay, momentum=0.95),
        AdamW(others, lr=plan.adam_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


class Trainer:
    """One model, its optimisers and its place in the budget."""

    def __init__(
        self,
        model: EarlyExitLlama,
        corpus: Corpus,
        *,
        config: TrainingConfig,
        budget: schedule.Budget,
        device: str,
        started_from: str | None = None,
        workers: Workers = ALONE,
    ) -> None:
        """Take a new run's place at its beginning.

        `started_from` is the fingerprint of the checkpoint whose weights `model` has; None: it has
        random ones.
        """
        self.model = model.to(device)
        self.optimisers = make_optimisers(model, config.optimisation)
        self.position = Position()
        self._corpus = corpus
        self._config = config
        self._budget = budget
        self._device = device
        self._started_from = started_from
        self._workers = workers
        self._joint_loss = joint_loss
        if config.compiled:
            self._joint_loss = compile_model(model, joint_loss)

    @property
    def identity(self) -> dict[str, Any]:
        """The recipe and the text this run follows and what it began with, as plain values."""
        return {
            "config": self._config.as_dict(),
            "corpus": self._corpus.fingerprint,
            "started_from": self._started_from,
        }

    @property
    def progress(self) -> float:
        """Share of the budget spent."""
        return self._budget.progress(seconds=self.position.seconds, tokens=self.position.tokens)

    def step(self) -> StepReport:
        """Read one batch and improve the model by it."""
        began = time.monotonic()
        progress = self.progress
        stage = schedule.stage(progress, self._config.stages)
        batch = self._corpus.batch(
            self._config.seed,
            self.position.step,
            rows=stage.rows,
            length=stage.length,
            mixture=stage.mixture or self._config.mixture,
        )
        windows = torch.from_numpy(self._workers.part(batch)).to(self._device)
        losses = self._losses(windows, progress)
        factor = self._update(progress)
        # Reading the losses waits for the device, so the time below is the step's own.
        values = {layer: loss.item() for layer, loss in losses.items()}
        *means, seconds = self._workers.mean([*values.values(), time.monotonic() - began])
        values = dict(zip(values, means, strict=True))
        tokens = stage.rows * stage.length
        self.position = Position(
            step=self.position.step + 1,
            tokens=self.position.tokens + tokens,
            seconds=self.position.seconds + seconds,
        )
        return StepReport(
            position=self.position,
            progress=progress,
            losses=values,
            tokens_per_second=tokens / seconds,
            rate=factor,
        )

    def run(
        self,
        *,
        report: Callable[[StepReport], None],
        save: Callable[[], None],
        save_every: float,
    ) -> None:
        """Step until the budget is spent, saving last and every `save_every` seconds of it."""
        self.model.train()
        saved = self.position.seconds
        while self.progress < 1:
            report(self.step())
            if self.position.seconds - saved >= save_every:
                save()
                saved = self.position.seconds
        save()

    def _losses(self, windows: torch.Tensor, progress: float) -> dict[int, torch.Tensor]:
        plan = self._config.objective
        passing, taught = self._draw(windows.shape[0], windows.shape[1] - 1)
        with torch.autocast(
            torch.device(self._device).type,
            dtype=torch.bfloat16,
            enabled=self._config.precision == "bf16",
        ):
            total, losses = self._joint_loss(
                self.model,
                self.model(windows[:, :-1], passing),
                windows[:, 1:],
                weights=plan.exit_weights,
                taught_rows=taught,
                distil=torch.tensor(schedule.distil(progress, plan), device=self._device),
            )
        total.backward()
        return losses

    def _draw(self, rows: int, length: int) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """This step's rows that pass each layer some row skips, and positions that teach exits."""
        plan = self._config.objective
        place = self._config.seed * 1_000_003 + self.position.step
        random = torch.Generator().manual_seed(place + self._workers.rank * 1_000_000_007)
        passing = {}
        for layer in range(self.model.depth):
            chance = schedule.layer_dropout(layer, self.model.depth, plan)
            passes = torch.rand(rows, generator=random) >= chance
            if not passes.all():
                passing[layer] = passes.nonzero().flatten().to(self._device)
        positions = torch.randperm(rows * length, generator=random)
        taught = positions[: max(1, int(plan.exit_rows * len(positions)))]
        return passing, taught.to(self._device)

    def _update(self, progress: float) -> float:
        plan = self._config.optimisation
        factor = schedule.rate(progress, plan)
        self._workers.average_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), plan.clip)
        for optimiser, rate in zip(self.optimisers, (plan.muon_rate, plan.adam_rate), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.step()
            optimiser.zero_grad()
        return factor
