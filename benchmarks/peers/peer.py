"""What a peer is: a name, a core, and an answer to token ids with its times. Runs no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Length:
    """How long answers are.

    Attributes:
        new_tokens: the most tokens of an answer.
        eos_ids: the ids that end a text.
        exactly: hold them back until `new_tokens` are there, as our services do with
            `min_new_tokens`; else an answer ends with the first of them.
    """

    new_tokens: int
    eos_ids: tuple[int, ...]
    exactly: bool = True


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and when its tokens came: seconds to the first, between them (0 for those handed
    over together), and to the last.
    """

    ids: list[int]
    ttft_s: float
    gaps_s: list[float]
    total_s: float

    @classmethod
    def of(cls, ids: Sequence[int], began: float, arrivals: Sequence[float]) -> "Answered":
        """From readings of one clock: when it was asked for, and when each token came.

        Raises:
            ValueError: there are no tokens, or not as many as arrivals.
        """
        if not ids or len(ids) != len(arrivals):
            raise ValueError(f"{len(ids)} tokens came at {len(arrivals)} times")
        return cls(
            ids=list(ids),
            ttft_s=arrivals[0] - began,
            gaps_s=[later - earlier for earlier, later in pairwise(arrivals)],
            total_s=arrivals[-1] - began,
        )


class Peer(Protocol):
    """Software that can be asked."""

    @property
    def name(self) -> str:
        """What its rows are called."""
        ...

    @property
    def core(self) -> int:
        """The CPU it computes on; who asks it pins the process there."""
        ...

    def answer(self, ids: Sequence[int], length: Length) -> Answered:
        """Go on from the prompt `ids` greedily, from nothing but the weights: no cache is kept."""
        ...


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer that cannot be asked here, and why."""

    name: str
    reason: str
