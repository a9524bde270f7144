"""Teaching a drafter what the whole model would say: all of its distribution, at every position.

The loss is the cross entropy against the whole softmax (sequence-level distillation on the
teacher's own texts, Kim and Rush, arXiv 1606.07947; DistillSpec, arXiv 2310.08461, for drafters).
The likeliest token alone as a target was tried and costs agreement, greedy and sampled. What the
trunk and the end say of a window is computed once and kept, in bfloat16. Knows no files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from shared.model.network import TranslatorShape
from training.heads.drafter import Drafter

WINDOW = 256
ROWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Step sizes (Muon for matrices inside layers, AdamW for the exit and the norms), and when the
    linear decay to nothing begins. `precision` "bf16" computes products so, weights stay float32.
    `translator` is put before the exit's norm where it has none: of a rank, affine, or none.
    """

    muon_rate: float = 0.01
    adam_rate: float = 2e-3
    warmup: float = 0.02
    decay_from: float = 0.4
    clip: float = 1.0
    translator: TranslatorShape = field(default_factory=TranslatorShape)
    precision: str = "bf16"


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: share of the budget spent before it, loss in nats, and agreement."""

    number: int
    progress: float
    loss: float
    agreement: float


@dataclass(slots=True)
class Lessons:
    """Windows of text and what the whole model makes of them.

    Of the same window every visit learns the same, so its states are kept: 4 bytes a hidden unit
    and token. windows [M, T] int64.
    """

    whole: Any
    split: int
    windows: Tensor
    precision: str
    _kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return -(-len(self.windows) // ROWS)

    @torch.no_grad()
    def read(self, number: int) -> tuple[Tensor, Tensor]:
        """States [B, T, H] that enter the split, and the end's normed states [B, T, H]."""
        if number not in self._kept:
            ids = self.windows[number * ROWS : (number + 1) * ROWS]
            with _products(self.precision, ids.device):
                states = self.whole.model(ids, use_cache=False, output_hidden_states=True)
            kept = (states.hidden_states[self.split], states.last_hidden_state)
            wanted = torch.bfloat16 if self.precision == "bf16" else torch.float32
            self._kept[number] = kept[0].to(wanted), kept[1].to(wanted)
        below, end = self._kept[number]
        return below.float(), end.float()

    @torch.no_grad()
    def says(self, end: Tensor) -> Tensor:
        """The end's logits [B·T, V]."""
        logits: Tensor = self.whole.lm_head(end).float()
        cap = getattr(self.whole.config, "final_logit_softcapping", None)
        return (logits if cap is None else cap * torch.tanh(logits / cap)).flatten(0, 1)


def teach(
    drafter: Drafter,
    lessons: Lessons,
    *,
    recipe: Recipe,
    budget: Callable[[int, float], float],
    seed: int,
    report: Callable[[Step], None],
) -> int:
    """Train until `budget`(steps, seconds) reaches 1; returns the steps made.

    Every lesson is read once before any is read again, in an order the seed decides.
    """
    optimisers = _optimisers(drafter, recipe)
    began, step = time.monotonic(), 0
    random = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while (progress := budget(step, time.monotonic() - began)) < 1:
        order = order or torch.randperm(len(lessons), generator=random).tolist()
        loss, agreement = _learn(drafter, lessons, order.pop(), recipe)
        _update(drafter, optimisers, recipe, progress)
        report(Step(step, progress, loss, agreement))
        step += 1
    return step


def _learn(drafter: Drafter, lessons: Lessons, number: int, recipe: Recipe) -> tuple[float, float]:
    below, end = lessons.read(number)
    with _products(recipe.precision, below.device):
        target = lessons.says(end)
        logits = drafter(below).float().flatten(0, 1)
    loss = F.cross_entropy(logits, target.softmax(dim=-1))
    loss.backward()
    agreement = (logits.argmax(dim=-1) == target.argmax(dim=-1)).float().mean()
    return loss.item(), agreement.item()


def _products(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _optimisers(drafter: Drafter, recipe: Recipe) -> Sequence[tuple[Optimizer, float]]:
    matrices = [p for p in drafter.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in drafter.parameters() if id(p) not in inside]
    adam = AdamW(others, lr=recipe.adam_rate, weight_decay=0.0, betas=(0.9, 0.95))
    if not matrices:
        return [(adam, recipe.adam_rate)]
    muon = Muon(matrices, lr=recipe.muon_rate, weight_decay=0.0, momentum=0.95)
    return [(adam, recipe.adam_rate), (muon, recipe.muon_rate)]


def _update(
    drafter: Drafter,
    optimisers: Sequence[tuple[Optimizer, float]],
    recipe: Recipe,
    progress: float,
) -> None:
    warm = min(1.0, max(progress, 0.05 * recipe.warmup) / recipe.warmup)
    factor = warm * min(1.0, (1 - progress) / (1 - recipe.decay_from))
    torch.nn.utils.clip_grad_norm_(drafter.parameters(), recipe.clip)
    for optimiser, rate in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate * factor
        optimiser.step()
        optimiser.zero_grad()
