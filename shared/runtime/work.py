"""What a model thread is fed and what it gives back, as types.

Work is counted in rows: one row is one token position through the linear layers of a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Work(Protocol):
    """One session's share of coming steps. The engine advances it; the batcher only counts its
    rows.
    """

    @property
    def rows(self) -> int:
        """Rows still to run; at least 1 until the work is complete."""
        ...

    @property
    def charge(self) -> int:
        """How much of the last step was this work's, in any unit common to the works of an engine
        (rows times layers, where they differ): its compute is charged in this proportion."""
        ...


W_contra = TypeVar("W_contra", bound=Work, contravariant=True)
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Failed:
    """One work of a step could not be done; the others of that step are not touched by it."""

    error: Exception


class Engine(Protocol[W_contra, R_co]):
    """A model owned by one thread."""

    def step(self, batch: Sequence[tuple[W_contra, int]]) -> Sequence[R_co | Failed | None]:
        """Advance each work by at most its allotted rows, in one batch.

        Returns, in the order of `batch`: the work's result once it is complete, `None` while rows
        remain, or `Failed`. An exception raised here fails every work of the batch.
        """
        ...


@dataclass(frozen=True, slots=True)
class Completed(Generic[R]):
    """A work's result with what it cost.

    `compute_seconds` is its share, by rows, of the steps it took part in; `queue_seconds` is the
    time before its first step.
    """

    value: R
    compute_seconds: float
    queue_seconds: float
