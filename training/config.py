"""What a training run is made of, as one frozen value that is written beside the weights.

It holds numbers only: it does not know how they are used, nor where files lie.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Precision = Literal["bf16", "fp32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Sizes of the Llama-style model and the layers in front of which it may exit."""

    layers: int = 12
    hidden: int = 256
    intermediate: int = 688
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 4096
    max_positions: int = 2048
    rope_theta: float = 10_000.0
    exits: tuple[int, ...] = (3, 6)

    def __post_init__(self) -> None:
        if any(not 0 < layer < self.layers for layer in self.exits):
            raise ValueError(f"exits {self.exits} must lie inside the {self.layers} layers")
        if list(self.exits) != sorted(set(self.exits)):
            raise ValueError(f"exits {self.exits} must rise")
        if self.vocabulary > 1 << 16:
            raise ValueError(f"{self.vocabulary} tokens do not fit the 16 bits they are stored in")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """From `begins` (a share of the run) on, batches are `rows` windows of `length` tokens."""

    begins: float
    rows: int
    length: int
    mixture: dict[str, float] | None = None
    """Shares of this stage's own; None: the recipe's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Weights of the losses; exits learn from the text first and from the model's end later."""

    exit_weights: tuple[float, ...] = (0.35, 0.5)
    exit_rows: float = 0.5
    """Share of a batch's positions whose exit losses are computed; the end's are all computed."""
    distil_from: float = 0.3
    distil_full: float = 0.6
    layer_dropout: float = 0.1
    """Probability that a row skips the last layer; grows with depth from 0 at the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """Step sizes: Muon for the matrices inside layers, AdamW for the embedding and the norms."""

    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup: float = 0.02
    decay_from: float = 0.45
    clip: float = 1.0


def _default_stages() -> tuple[Stage, ...]:
    return (
        Stage(begins=0.0, rows=16, length=256),
        Stage(begins=0.55, rows=8, length=512),
        Stage(begins=0.9, rows=2, length=2048),
    )


# Shares of tokens. What is easy to predict leads (dialogues of fixed forms, questions answered
# from a passage), so that exits have something to agree about; long books give only their English.
MIXTURE = {
    "sgd": 0.22,
    "fairyqa": 0.16,
    "spc": 0.08,
    "self_dialogue": 0.08,
    "dolly": 0.07,
    "fairytaleqa": 0.06,
    "asp_pb": 0.05,
    "gitenberg": 0.05,
    "gpteacher": 0.05,
    "alpaca_libre": 0.04,
    "tm4": 0.03,
    "topical": 0.03,
    "gsm8k_train": 0.03,
    "chilit": 0.02,
    "onestop": 0.02,
    "books_simple": 0.01,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that decides the weights, apart from the text and the machine's rounding."""

    size: ModelSize = field(default_factory=ModelSize)
    mixture: dict[str, float] = field(default_factory=lambda: dict(MIXTURE))
    stages: tuple[Stage, ...] = field(default_factory=_default_stages)
    objective: Objective = field(default_factory=Objective)
    optimisation: Optimisation = field(default_factory=Optimisation)
    precision: Precision = "bf16"
    compiled: bool = False
    """Layers and losses go through torch's compiler, which each length of window costs minutes."""
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.objective.exit_weights) != len(self.size.exits):
            raise ValueError(f"one weight per exit is needed: {len(self.size.exits)}")
        for stage in self.stages:
            if unknown := set(stage.mixture or ()) - self.mixture.keys():
                raise ValueError(f"a stage reads {sorted(unknown)}, which the recipe does not name")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)
