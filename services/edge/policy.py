"""Who decides a token: a pure function of what the exits said, whether the cloud is reachable, and
the request's rules.

Which exit may keep a token is an exit policy's to say (`shared.exits.policies`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from shared.exits.calibration import Logistic
from shared.exits.policy import Asked, Policy
from shared.exits.signals import Signals

Plan = Literal["draft", "assist", "race", "cloud"]
Mode = Literal["standalone", "collaborative", "verified", "cloud", "split"]
OnCloudLoss = Literal["degrade", "error"]

# Kept tokens a request with `repair` holds back. With more of them more are judged in time, but
# every token comes later by as many edge steps: 8 of 30 ms are a quarter of a second.
MOST_HELD = 8


@dataclass(frozen=True, slots=True)
class Keep:
    """The edge's own token stands, taken at the exit before `layer`."""

    layer: int


@dataclass(frozen=True, slots=True)
class Offload:
    """The cloud is asked for this token."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """The cloud should have been asked but cannot be: the edge's token stands in."""


Decision = Keep | Offload | Fallback


@dataclass(frozen=True, slots=True)
class Rules:
    """How one request wants its tokens decided: by which exit policy, `chances` being the exits'
    calibrations by layer, as far as there are any.

    Up to `most_held` kept tokens wait for the cloud's judgement before they are given out (0: none
    waits, and none is ever replaced). `target` is the share of tokens unlike the full model's the
    policy was chosen for, if it was; with `unmoved` by its calibration alone, whatever it takes to
    hold that on the traffic there is.
    """

    mode: Mode
    policy: Policy
    on_cloud_loss: OnCloudLoss
    most_held: int = 0
    target: float | None = None
    unmoved: bool = False
    chances: Mapping[int, Logistic] = field(default_factory=dict)

    def chance(self, layer: int, signals: Signals) -> float | None:
        """The chance that the exit before `layer` chose what the full model would have; None where
        it is not calibrated.
        """
        return self.chances[layer].chance(signals) if layer in self.chances else None


def decide(
    rules: Rules, asked: Sequence[Asked], history: Any, *, cloud_reachable: bool
) -> Decision:
    """Decide on what the exits asked at this position said, after a text with this history.

    In `standalone` the deepest exit's proposal stands even when it is not sure. A lost cloud means
    `Fallback` only where the request allows it; otherwise `Offload` is tried, and its failure is
    the user's to see.
    """
    if rules.mode == "standalone" or (
        rules.mode == "collaborative" and rules.policy.keeps(asked, history)
    ):
        return Keep(asked[-1].layer)
    if cloud_reachable or rules.on_cloud_loss == "error":
        return Offload()
    return Fallback()


@dataclass(frozen=True, slots=True)
class Pacing:
    """How far the edge drafts, and when it asks, under a plan.

    A step runs up to `width` candidates whose chance to be decided is at least `floor`, while no
    more than `most` are undecided. A pass is asked for where the chance that everything since the
    last one is right falls below `doubt`, or after `longest` drafts. After a pass the cloud may go
    on by itself for `ahead` tokens: where it decided what the edge had not drafted, or, `racing`,
    whatever the edge has drafted. Drafts less likely than `least` are not sent, but for the
    likeliest path. A step ends at the split where the exit there gives what follows its likeliest
    row a chance above `sure`.
    """

    plan: Plan = "draft"
    width: int = 8
    floor: float = 0.02
    doubt: float = 0.7
    longest: int = 4
    most: int = 64
    ahead: int = 0
    racing: bool = False
    least: float = 0.0
    sure: float = 1.0


def default_on_cloud_loss(mode: Mode) -> OnCloudLoss:
    """`collaborative` goes on with edge tokens; modes that promise the full model's text say
    that they cannot.
    """
    return "degrade" if mode in ("standalone", "collaborative") else "error"
