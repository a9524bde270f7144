"""The chance that the full model would choose an exit's token, and what thresholds of it are worth:
the files `agreement*.json` beside a checkpoint and in an edge's bundle.

It reads and writes the file; how it is fitted is `training`'s business, and what a policy makes of
a chance is not known here.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.errors import BadModel
from shared.exits.signals import FEATURES, Signals

FORMAT = 1
KIND, VERSION = "logistic", 1
# How the texts were chosen that it holds for: greedily, or drawn at temperature 1 from all of the
# distribution. Drawn at lower temperatures, or more narrowly, exits agree more often.
Text = Literal["greedy", "sampled"]
TEXTS: tuple[Text, ...] = ("greedy", "sampled")
HOTTEST = 1.0


def file_of(cut: tuple[int, int] | None = None, text: Text = "greedy") -> str:
    """The file's name beside a checkpoint: without a drafter, or made with the drafter of a
    `cut` (split, edge depth) in place. In a bundle it is as without.
    """
    return f"agreement{suffix_of(cut, text)}.json"


def suffix_of(cut: tuple[int, int] | None, text: Text) -> str:
    """What tells apart the files of one checkpoint's exits, by drafter and kind of text."""
    parts = [*(["sampled"] if text == "sampled" else []), *map(str, cut or ())]
    return "".join(f"-{part}" for part in parts)


FILE = file_of()


def text_of(temperature: float, repetition_penalty: float = 1.0) -> Text | None:
    """Which calibration holds where tokens are chosen so; None where none does: a penalty puts
    other tokens in the place of those the exits were sure of.
    """
    if repetition_penalty != 1:
        return None
    if temperature == 0:
        return "greedy"
    return "sampled" if temperature <= HOTTEST else None


@dataclass(frozen=True, slots=True)
class Logistic:
    """A chance in (0, 1) from an exit's signals: the logistic function of their weighted sum.

    `weights` are in the order of `FEATURES`.
    """

    weights: tuple[float, float, float, float]
    bias: float

    def __post_init__(self) -> None:
        if len(self.weights) != len(FEATURES):
            raise ValueError(f"{len(self.weights)} weights for {len(FEATURES)} features")
        if not all(map(math.isfinite, (*self.weights, self.bias))):
            raise ValueError(f"weights {self.weights} and bias {self.bias} are not all finite")

    def chance(self, signals: Signals) -> float:
        """The chance that the full model's choice is the exit's."""
        pairs = zip(self.weights, signals.values, strict=True)
        score = self.bias + sum(weight * value for weight, value in pairs)
        if score < 0:  # whichever exponential cannot overflow
            power = math.exp(score)
            return power / (1 + power)
        return 1 / (1 + math.exp(-score))


@dataclass(frozen=True, slots=True)
class ExitFit:
    """A calibrated exit, the tokens that calibrated it, and its expected calibration error: of the
    highest probability taken for a chance, and of the chance.
    """

    logistic: Logistic
    tokens: int
    ece_before: float
    ece_after: float


@dataclass(frozen=True, slots=True)
class Target:
    """Thresholds of the chance, by layer, that keep the share of tokens unlike the full model's
    within `max_disagreement`; `offloaded` is the share the cloud is asked for then.
    """

    max_disagreement: float
    thresholds: Mapping[int, float]
    offloaded: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """What such a file says: fits by layer, rising, and targets, rising. It holds for these
    weights of the model and of its exits; `exits_sha256` is None where those have none of their
    own.

    Raises:
        ValueError: targets do not rise, or name other exits or impossible thresholds.
    """

    model_fingerprint: str
    exits: Mapping[int, ExitFit]
    targets: tuple[Target, ...]
    exits_sha256: str | None = None
    text: Text = "greedy"

    def __post_init__(self) -> None:
        wanted = [target.max_disagreement for target in self.targets]
        if not all(0 < each <= 1 for each in wanted) or wanted != sorted(set(wanted)):
            raise ValueError(f"targets {wanted} do not rise within (0, 1]")
        for target in self.targets:
            if target.thresholds.keys() != self.exits.keys():
                raise ValueError(
                    f"target {target.max_disagreement} is for the exits "
                    f"{sorted(target.thresholds)}, and calibrated are {sorted(self.exits)}"
                )
            if not all(0 <= each <= 1 for each in target.thresholds.values()):
                raise ValueError(f"target {target.max_disagreement} has thresholds beyond 0 to 1")

    @property
    def layers(self) -> list[int]:
        """The exits that are calibrated."""
        return sorted(self.exits)

    def chance(self, layer: int, signals: Signals) -> float:
        """The chance that the full model's choice is that of the exit in front of `layer`."""
        return self.exits[layer].logistic.chance(signals)

    def target(self, max_disagreement: float) -> Target:
        """The largest target not above `max_disagreement`; below all of them, one that keeps
        nothing.

        A chance is never above 1, so thresholds of 1 ask the cloud for every token.
        """
        for target in reversed(self.targets):
            if target.max_disagreement <= max_disagreement:
                return target
        return Target(max_disagreement, dict.fromkeys(self.layers, 1.0), 1.0)

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(self.content(), indent=2) + "\n")

    def content(self) -> dict[str, Any]:
        """In JSON's form."""
        return {
            "format": FORMAT,
            "kind": KIND,
            "version": VERSION,
            "model_fingerprint": self.model_fingerprint,
            "exits_sha256": self.exits_sha256,
            "text": self.text,
            "features": list(FEATURES),
            "exits": [
                {
                    "layer": layer,
                    "weights": list(fit.logistic.weights),
                    "bias": fit.logistic.bias,
                    "tokens": fit.tokens,
                    "ece_before": fit.ece_before,
                    "ece_after": fit.ece_after,
                }
                for layer, fit in sorted(self.exits.items())
            ],
            "targets": [
                {
                    "max_disagreement": target.max_disagreement,
                    "thresholds": {str(n): target.thresholds[n] for n in sorted(target.thresholds)},
                    "offloaded": target.offloaded,
                }
                for target in self.targets
            ],
        }


def read_agreement(path: Path) -> Agreement | None:
    """Read the file; None where there is none, an ordinary case.

    Raises:
        BadModel: it is broken, or of a format, kind or version that is not known here.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        told = (content["format"], content["kind"], content["version"], content["features"])
        if told != (FORMAT, KIND, VERSION, list(FEATURES)):
            raise BadModel(f"{path} is of another kind: {told}")
        return _parse(content)
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadModel(f"{path} does not say how exits agree: {error!r}") from error


def _parse(content: Mapping[str, Any]) -> Agreement:
    exits = {
        int(each["layer"]): ExitFit(
            Logistic(tuple(map(float, each["weights"])), float(each["bias"])),  # type: ignore[arg-type]
            int(each["tokens"]),
            float(each["ece_before"]),
            float(each["ece_after"]),
        )
        for each in content["exits"]
    }
    targets = tuple(
        Target(
            float(each["max_disagreement"]),
            {int(layer): float(value) for layer, value in each["thresholds"].items()},
            float(each["offloaded"]),
        )
        for each in content["targets"]
    )
    of_exits, text = content["exits_sha256"], content["text"]
    if text not in TEXTS:
        raise ValueError(f"text {text!r} is none of {TEXTS}")
    return Agreement(
        str(content["model_fingerprint"]),
        dict(sorted(exits.items())),
        targets,
        None if of_exits is None else str(of_exits),
        text,
    )
