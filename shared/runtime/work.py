"""What a model thread is fed and what it gives back, as types.

Work is counted in rows: one row is one token position through the linear layers of a step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

# `emergency` overtakes; the others share.
Priority = Literal["normal", "emergency"]
PRIORITIES: tuple[Priority, ...] = ("normal", "emergency")


@dataclass(slots=True, eq=False)
class Claim:
    """On whose behalf works are run: one object per session, the same in all its works.

    `client` names whom shares of an engine are counted for. `live` is set to false, from any
    thread, with the session's last token: nothing of it will come back. So is `wanted` when the
    session is closed: what waits of it is not begun, and what has begun goes no further.
    """

    client: str = ""
    priority: Priority = "normal"
    live: bool = True
    wanted: bool = True

    @property
    def urgent(self) -> bool:
        """Whether it overtakes."""
        return self.priority == "emergency"


class Work(Protocol):
    """One session's share of coming steps. The engine advances it; the batcher only counts its
    rows.
    """

    @property
    def rows(self) -> int:
        """Rows still to run; at least 1 until the work is complete."""
        ...

    @property
    def claim(self) -> Claim:
        """For whom it is."""
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


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step that has ended: how long it took, its rows by class, and the works that waited and
    were left out of it.
    """

    seconds: float
    rows: Mapping[Priority, int]
    parked: int
