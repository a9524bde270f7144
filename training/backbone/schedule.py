"""Everything that changes as training goes on, as functions of progress in [0, 1].

Progress is a share of the budget, counted in tokens or in seconds of training; a budget in seconds
finishes its decay on time however slow the machine turns out to be. Knows neither torch nor data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from training.config import Objective, Optimisation, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long to train: exactly one of the two is given."""

    minutes: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.tokens is None):
            raise ValueError("give a budget of minutes or of tokens, and not both")

    def progress(self, *, seconds: float, tokens: int) -> float:
        """Share of the budget that is spent, at most 1."""
        if self.tokens is not None:
            return min(1.0, tokens / self.tokens)
        assert self.minutes is not None
        return min(1.0, seconds / (60 * self.minutes))


def spent(steps: int, seconds: float, *, most_steps: int | None, minutes: float | None) -> float:
    """Share that is spent of a budget of steps, of minutes, or of both, whichever ends first; of
    neither, all of it.
    """
    parts = [1.0 if minutes is None and most_steps is None else 0.0]
    if minutes is not None:
        parts.append(seconds / (60 * minutes) if minutes else 1.0)
    if most_steps is not None:
        parts.append(steps / most_steps if most_steps else 1.0)
    return min(1.0, max(parts))


def rate(progress: float, plan: Optimisation) -> float:
    """Factor on the step size: linear warm-up, constant, linear decay to nothing (WSD)."""
    if progress < plan.warmup:
        return max(progress, 0.05 * plan.warmup) / plan.warmup
    if progress < plan.decay_from:
        return 1.0
    return max(0.0, (1 - progress) / (1 - plan.decay_from))


def stage(progress: float, stages: Sequence[Stage]) -> Stage:
    """The last stage that has begun."""
    return [candidate for candidate in stages if candidate.begins <= progress][-1]


def distil(progress: float, plan: Objective) -> float:
    """Share of the end's distribution in the exits' targets: 0, then a ramp, then 1."""
    ramp = (progress - plan.distil_from) / max(1e-9, plan.distil_full - plan.distil_from)
    return min(1.0, max(0.0, ramp))


def layer_dropout(layer: int, depth: int, plan: Objective) -> float:
    """Probability of skipping `layer`, growing exponentially with depth (LayerSkip, eq. 2)."""
    return plan.layer_dropout * (math.exp(layer * math.log(2) / max(1, depth - 1)) - 1)
