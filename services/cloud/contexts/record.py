"""What a replica knows of the logs in a store: where each stands, and what one must be like."""

from collections.abc import Callable
from dataclasses import dataclass

from services.cloud.contexts.log import Mark
from shared.protocol.messages import Opening


@dataclass(slots=True)
class Record:
    """What this replica knows of a session in the store: the log it last saw there, and how much of
    the context is in it (`None`: it has to be written whole).
    """

    log: str = ""
    count: int = 0
    nbytes: int = 0
    mark: Mark | None = None
    fenced: int = -1  # the revision another has it at
    dropped: bool = False  # there was no room for it


@dataclass(frozen=True, slots=True)
class Form:
    """What logs must be like to be this cloud's: width and vocabulary of its model, openings it
    takes (`fits` raises), `most_bytes` in all.
    """

    hidden: int
    vocab: int
    fits: Callable[[Opening], None]
    most_bytes: int
