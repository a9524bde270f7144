"""The recipe for training a model further: broad text first, dialogues and instructions to end on.

It holds numbers and their reasons, and knows neither files nor weights.
"""

from dataclasses import replace

from training.config import ModelSize, Objective, Optimisation, Stage, TrainingConfig

# What the first run read least of leads: whole books and free conversation. They have the most
# text that no token was drawn from yet, and it is there that a model still learns words.
BROAD = {
    "books_simple": 0.20,
    "self_dialogue": 0.18,
    "chilit": 0.17,
    "gitenberg": 0.12,
    "sgd": 0.08,
    "topical": 0.06,
    "fairyqa": 0.05,
    "asp_pb": 0.02,
    "dolly": 0.02,
    "fairytaleqa": 0.02,
    "gsm8k_train": 0.02,
    "onestop": 0.02,
    "spc": 0.02,
    "gpteacher": 0.01,
    "tm4": 0.01,
}
# What the model is asked for in use. The small sources (dolly, gpteacher, alpaca_libre, tm4) are
# read about once in a run of 20 million tokens: more would be learned by heart.
ENDING = {
    "sgd": 0.28,
    "fairyqa": 0.14,
    "dolly": 0.09,
    "spc": 0.09,
    "self_dialogue": 0.08,
    "topical": 0.07,
    "gpteacher": 0.06,
    "fairytaleqa": 0.06,
    "gsm8k_train": 0.06,
    "alpaca_libre": 0.04,
    "tm4": 0.03,
}
ENDING_FROM = 0.65
_LONGER_FROM = 0.5
_LONGEST_FROM = 0.94

# Weights that are already trained need no full step again: the peaks are 0.6 of the first run's,
# after a warm-up in which the optimisers, which start anew, gather their means.
_RATES = Optimisation(muon_rate=0.012, adam_rate=1.8e-3, warmup=0.02, decay_from=0.4)

# Exits know the text already and turn to the end's choices from the beginning. No layer is
# skipped: rows of changing number would be compiled anew at every step.
_OBJECTIVE = Objective(distil_from=0.0, distil_full=0.4, layer_dropout=0.0)


def continuation(
    size: ModelSize, mixture: dict[str, float], *, seed: int = 0, compiled: bool = False
) -> TrainingConfig:
    """The recipe for a model of `size` on text with the sources of `mixture`.

    Where these are the reference sources, stages read `BROAD` and `ENDING`, and the recipe's
    mixture is their mean over the run; of other text every stage reads `mixture`. Exits share one
    weight where there are not the reference's two.
    """
    reference = mixture.keys() >= BROAD.keys() | ENDING.keys()
    broad, ending = (BROAD, ENDING) if reference else (None, None)
    weights = _OBJECTIVE.exit_weights
    if len(size.exits) != len(weights):
        weights = (sum(weights) / len(weights),) * len(size.exits)
    # Batches of 8,192 tokens, twice the first run's: an update costs as much as 1,000 of them.
    stages = (
        Stage(begins=0.0, rows=32, length=256, mixture=broad),
        Stage(begins=_LONGER_FROM, rows=16, length=512, mixture=broad),
        Stage(begins=ENDING_FROM, rows=16, length=512, mixture=ending),
        Stage(begins=_LONGEST_FROM, rows=4, length=2048, mixture=ending),
    )
    return TrainingConfig(
        size=size,
        mixture=_mean() if reference else mixture,
        stages=stages,
        objective=replace(_OBJECTIVE, exit_weights=weights),
        optimisation=_RATES,
        compiled=compiled,
        seed=seed,
    )


def _mean() -> dict[str, float]:
    """Shares over the whole run."""
    return {
        source: ENDING_FROM * BROAD.get(source, 0.0) + (1 - ENDING_FROM) * ENDING.get(source, 0.0)
        for source in sorted(BROAD.keys() | ENDING.keys())
    }
