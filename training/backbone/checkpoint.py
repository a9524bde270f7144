"""A training run on disk: everything needed to go on as if it had never stopped.

One file, replaced atomically, so a run killed while saving resumes from the save before. It does
not know what a step does.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run stands: steps done, tokens seen, seconds of training (pauses not counted)."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Run(Protocol):
    """What is saved of a run; `identity` is the recipe and text that made it, as plain values."""

    position: Position
    optimisers: list[Optimizer]

    @property
    def model(self) -> nn.Module: ...

    @property
    def identity(self) -> dict[str, Any]: ...


def save_checkpoint(path: Path, run: Run) -> None:
    """Write the run's state to `path`."""
    state = {
        "model": run.model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in run.optimisers],
        "position": asdict(run.position),
        "identity": run.identity,
    }
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def load_checkpoint(path: Path, run: Run) -> None:
    """Put a run back where it was saved.

    Raises ValueError when the checkpoint was made by another recipe or on other text: its schedule
    and its batches would not be those that this run continues with.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["identity"] != run.identity:
        raise ValueError(f"{path} was made by another recipe or on other text")
    run.model.load_state_dict(state["model"])
    for optimiser, saved in zip(run.optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    run.position = Position(**state["position"])
