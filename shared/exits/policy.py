"""What an exit policy is: numbers, and pure functions that keep a token or go on.

Where an exit was asked, a policy says whether its token stays, given what the exits asked so far at
this position said and a history, an immutable value folded over the text so far. It knows neither
the cloud nor who asks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from shared.exits.signals import Signals

# Of an exit by the layer it is in front of.
Thresholds = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one exit said at a position: the token it chose, and how sure it is.

    `chance` is the calibrated chance that the full model would have chosen the same; None where the
    exit was not calibrated.
    """

    layer: int
    token: int
    signals: Signals
    chance: float | None = None

    @property
    def confidence(self) -> float:
        """The calibrated chance where there is one, else the highest probability."""
        return self.signals.top if self.chance is None else self.chance


class Policy:
    """Base of the policies: a frozen dataclass of numbers, each a float, an int or `Thresholds`.

    `History` is whatever a policy folds; most need none. Both functions are pure.
    """

    __slots__ = ()
    # Whether `Asked.chance` must be there.
    needs_chance = False

    @property
    def name(self) -> str:
        """Its name in settings and tables: its module's."""
        return type(self).__module__.rpartition(".")[2]

    def start(self) -> Any:
        """The history before the first token; it can be compared and is never changed."""
        return None

    def keeps(self, asked: Sequence[Asked], history: Any) -> bool:
        """Whether the token of the exit asked last stays.

        Args:
            asked: what the exits asked so far at this position said, in rising order of layers.
            history: folded over the positions before this one.
        """
        raise NotImplementedError

    def after(self, history: Any, asked: Sequence[Asked]) -> Any:
        """The history after a position at which these exits, and no others, were asked.

        It follows from what the exits said alone, not from who made the token in the end: the same
        text has the same history wherever it is computed.
        """
        return history

    def numbers(self) -> dict[str, Any]:
        """Its numbers in JSON's form: what `policies.build` takes."""
        return {
            each.name: {str(layer): value[layer] for layer in sorted(value)}
            if isinstance(value := getattr(self, each.name), Mapping)
            else value
            for each in fields(self)  # type: ignore[arg-type]  # each policy is a dataclass
        }

    def require_layers(self, layers: Iterable[int]) -> None:
        """Refuse to be asked at exits it has no threshold for, or has one too many for.

        Raises:
            ValueError: naming the layers.
        """
        wanted = sorted(layers)
        for each in fields(self):  # type: ignore[arg-type]  # as above
            value = getattr(self, each.name)
            if isinstance(value, Mapping) and sorted(value) != wanted:
                raise ValueError(
                    f"{each.name} of {self.name} are for the exits {sorted(value)}, "
                    f"and those there are {wanted}"
                )


def require_thresholds(thresholds: Thresholds) -> None:
    """Refuse thresholds nothing could be compared with.

    Raises:
        ValueError: one lies outside [0, 1], or there is none.
    """
    if not thresholds:
        raise ValueError("thresholds name no exit")
    for layer, threshold in thresholds.items():
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold of exit {layer} is {threshold}; allowed: 0 <= x <= 1")


def asked_until_kept(
    policy: Policy, said: Sequence[Asked], history: Any
) -> tuple[int | None, Sequence[Asked]]:
    """Ask the exits in turn until one may keep its token; `said` is what each of them says.

    Returns:
        the layer of the exit that keeps it, or None where the cloud is asked; what was asked.
    """
    for count in range(1, len(said) + 1):
        if policy.keeps(said[:count], history):
            return said[count - 1].layer, said[:count]
    return None, said


def walk(policy: Policy, text: Iterable[Sequence[Asked]]) -> Iterator[int | None]:
    """Yield for each position of a text the layer of the exit that keeps it, or None.

    Args:
        text: per position what every exit says there, in rising order of layers.
    """
    history = policy.start()
    for said in text:
        layer, asked = asked_until_kept(policy, said, history)
        history = policy.after(history, asked)
        yield layer
