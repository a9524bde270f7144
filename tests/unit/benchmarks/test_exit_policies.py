"""Over arrays, policies keep what the edge's pure functions keep, token by token."""

import numpy as np
import pytest

from benchmarks.exits.families import moving_average, patience
from benchmarks.exits.splits import judge
from shared.exits.policies import build
from shared.exits.policy import Asked, Policy, walk
from shared.exits.signals import Signals
from training.calibration.threshold_paths import kept_at
from training.calibration.trace_arrays import Counts, Numbers, Texts

_EXITS = (3, 6)


def _texts(documents: int = 40, seed: int = 0) -> Texts:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 30, documents)
    total = int(lengths.sum())
    top = random.beta(2, 1, (2, total))
    signals = np.stack([top, 1 - top, top, 1 - top], axis=-1)
    whole = np.full(total, 7)
    choices = np.where(random.random((2, total)) < top, 7, random.integers(8, 10, (2, total)))
    return Texts(_EXITS, signals, choices, whole, lengths, ("s",) * documents)


def _walked(policy: Policy, texts: Texts, chances: Numbers) -> Counts:
    """[N]: the exit that keeps each place, by the edge's own functions."""
    said = [
        [
            Asked(layer, int(texts.choices[e, n]), Signals(*texts.signals[e, n]), chances[e, n])
            for e, layer in enumerate(_EXITS)
        ]
        for n in range(len(texts.whole))
    ]
    kept: list[int] = []
    for first, length in zip(np.cumsum(texts.lengths) - texts.lengths, texts.lengths, strict=True):
        layers = walk(policy, said[first : first + length])
        kept += [2 if layer is None else _EXITS.index(layer) for layer in layers]
    return np.array(kept)


@pytest.mark.parametrize("thresholds", [(0.8, 0.7), (0.95, 0.5), (1.0, 0.9)])
def test_the_moving_average_is_the_edges(thresholds: tuple[float, float]) -> None:
    texts = _texts()
    chances = texts.signals[..., 0] ** 2
    numbers = {"newest": 0.7, "unsure": 2, "stay": 2}
    policy = build(
        "moving_average", {"thresholds": dict(zip(_EXITS, thresholds, strict=True)), **numbers}
    )
    found = moving_average(chances, texts, thresholds)
    assert found.tolist() == _walked(policy, texts, chances).tolist()
    assert set(found.tolist()) >= {1, 2}


@pytest.mark.parametrize("exits", [1, 2])
def test_patience_is_the_edges(exits: int) -> None:
    texts = _texts()
    policy = build("patience", {"exits": exits})
    assert patience(texts, exits).tolist() == _walked(policy, texts, texts.signals[..., 0]).tolist()


def test_thresholds_are_the_edges() -> None:
    texts = _texts()
    chances = texts.signals[..., 0] ** 2
    for name, scores in (("per_exit", texts.signals[..., 0]), ("chance", chances)):
        policy = build(name, {"thresholds": {3: 0.8, 6: 0.6}})
        assert kept_at(scores, (0.8, 0.6)).tolist() == _walked(policy, texts, chances).tolist()


def test_a_seed_is_judged_on_the_other_half() -> None:
    texts = _texts(120)
    found = judge(texts, seed=1, delta=0.1)
    assert found["documents"] == [60, 60]
    assert found == judge(texts, seed=1, delta=0.1)
    assert found["targets"].keys() == {"0.01", "0.02", "0.05", "0.1"}
    _, judged = texts.split(0.5, 1)
    told = found["policies"]["patience"]["1"]
    assert told["disagreement"] == pytest.approx(1 - judged.agrees[0].mean())
    assert found["calibration"]["6"]["agreement"] == pytest.approx(judged.agrees[1].mean())
