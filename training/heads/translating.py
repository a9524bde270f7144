"""Teaching translators: windows of text, what the frozen model makes of them, and the steps.

The loss is KL(end || exit) at every position (Belrose et al., arXiv 2303.08112, section 3); Adam,
with a step for each matrix that does not grow with what it reads, so that one recipe does for
models of any width (Yang et al., arXiv 2203.03466, table 3). Knows tensors and time, no files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from training.heads.translators import Likeness, States, Translators

WINDOW = 256
_ROWS = 8
# Bytes of states that are kept, so that a window that comes round again is not computed again.
_KEPT = 1 << 30
# Shares of the budget after which the exits are measured: often while they learn most.
_POINTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Step sizes. `matrix_rate` is for one number of a matrix with one input, `bias_rate` in parts
    of the states' mean size, `norm_rate` as it is; all rise during `warmup` of the budget and
    then fall linearly to nothing.
    """

    matrix_rate: float = 0.25
    bias_rate: float = 1e-3
    norm_rate: float = 2e-3
    warmup: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """How near each exit is to the end on held-out text after some steps, and `seconds` since the
    first; `cpu_seconds` of them the process computed. `tokens` were learned from, those that came
    round again counted again.
    """

    step: int
    seconds: float
    cpu_seconds: float
    tokens: int
    exits: dict[int, Likeness]


@dataclass(slots=True)
class Taught:
    """The curve of a run and where its seconds went: `reading` (the frozen model), `learning` (the
    exits) and `measuring`.
    """

    curve: list[Point] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"reading": 0.0, "learning": 0.0, "measuring": 0.0}
    )
    steps: int = 0
    tokens: int = 0


Report = Callable[[int, float, dict[int, float]], None]


@dataclass(slots=True)
class Lessons:
    """Windows [M, T] of ids, and what the frozen model makes of them, kept as far as it fits."""

    translators: Translators
    windows: Tensor
    memory: int = _KEPT
    _kept: dict[int, States] = field(default_factory=dict)
    _held: int = 0

    def __len__(self) -> int:
        return -(-len(self.windows) // _ROWS)

    def read(self, number: int) -> States:
        """The states of one lesson: `_ROWS` windows."""
        if number in self._kept:
            return self._kept[number]
        rows = self.windows[number * _ROWS : (number + 1) * _ROWS]
        states = self.translators.read(list(rows.to(self.translators.model.device)))
        if self._held + states.nbytes <= self.memory:
            self._kept[number] = states
            self._held += states.nbytes
        return states


def teach(
    translators: Translators,
    lessons: Lessons,
    judged: Sequence[States],
    *,
    pace: Pace,
    budget: Callable[[int, float], float],
    dtype: torch.dtype,
    seed: int,
    report: Report,
) -> Taught:
    """Teach until `budget`(steps, seconds) reaches 1; the curve begins before the first step.

    Every lesson is read once before any is read again, in an order the seed decides. `judged` is
    what the curve is measured on, at the end with what was learned rounded to `dtype`. `report` is
    told the step, the share of the budget spent and each exit's divergence, in nats, on what it
    just learned from.
    """
    taught = Taught()
    clock = _Clock(taught.seconds)
    optimiser = _optimiser(translators, judged[0], pace)
    random = torch.Generator().manual_seed(seed)
    order: list[int] = []
    points = list(_POINTS)
    while (progress := budget(taught.steps, clock.seconds)) < 1:
        if progress >= points[0]:
            points = [point for point in points if point > progress]
            _measure(translators, judged, taught, clock)
        order = order or torch.randperm(len(lessons), generator=random).tolist()
        with clock.at("reading"):
            states = lessons.read(order.pop())
        with clock.at("learning"):
            found = translators.learn(states)
            _step(optimiser, pace, progress)
        taught.steps += 1
        taught.tokens += len(states.end)
        report(taught.steps, progress, found)
    translators.round_to(dtype)
    _measure(translators, judged, taught, clock)
    return taught


def _measure(
    translators: Translators, judged: Sequence[States], taught: Taught, clock: "_Clock"
) -> None:
    seconds, computed = clock.seconds, clock.computed
    with clock.at("measuring"):
        exits = translators.measure(judged)
    taught.curve.append(
        Point(
            step=taught.steps,
            seconds=seconds,
            cpu_seconds=computed,
            tokens=taught.tokens,
            exits=exits,
        )
    )


class _Clock:
    """Seconds since the first step, those the process computed, and which of them went where."""

    def __init__(self, parts: dict[str, float]) -> None:
        self._parts = parts
        self._began = self._entered = time.monotonic()
        self._computed = time.process_time()
        self._part = ""

    @property
    def computed(self) -> float:
        return time.process_time() - self._computed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def at(self, part: str) -> "_Clock":
        self._part = part
        return self

    def __enter__(self) -> None:
        self._entered = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._parts[self._part] += time.monotonic() - self._entered


def _optimiser(translators: Translators, states: States, pace: Pace) -> Optimizer:
    groups = []
    for layer, entering in states.entering.items():
        size = float(entering.abs().mean())
        for name, parameter in translators.heads[str(layer)].named_parameters():
            if name.startswith("norm."):
                rate = pace.norm_rate
            elif parameter.ndim == 2:
                rate = pace.matrix_rate / parameter.shape[1]
            else:
                rate = pace.bias_rate * size
            groups.append({"params": [parameter], "lr": rate, "full": rate})
    return Adam(groups, betas=(0.9, 0.95))


def _step(optimiser: Optimizer, pace: Pace, progress: float) -> None:
    warm = min(1.0, max(progress, 0.05 * pace.warmup) / pace.warmup)
    for group in optimiser.param_groups:
        group["lr"] = group["full"] * warm * (1 - progress)
    optimiser.step()
    optimiser.zero_grad()
