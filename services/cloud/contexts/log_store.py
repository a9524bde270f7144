"""What a store of logs can do, whatever it is made of, and how its answers are told. A session is
named by its key here (`context.key_of`): its owner's name is part of it.

Every write is a compare-and-set: it names the session's revision, the log it adds to and how many
entries that one has. A store knows bytes; sealing, entries and contexts are not its business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

# Seconds for which a closed session's revision is remembered: a block may be this late.
TOMBSTONE_SECONDS = 60.0


class Away(Exception):
    """The store gave no answer, or is not to be asked for a while."""


class Refused(Away):
    """The store answered that it cannot do this, but is there."""


class Outcome(StrEnum):
    """How a store answered."""

    OK = "ok"
    MISSING = "missing"  # it has nothing of the session, or only from before its last hand-over
    FENCED = "fenced"  # the session has gone on at a later revision
    CLOSED = "closed"  # it was closed, at this revision or a later one
    BEHIND = "behind"  # at this revision, but the log is another, or has other entries
    DROPPED = "dropped"  # its client has no room for this log: nothing of it is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """Answer to a claim or a read: with `OK` the log's name, how many entries it has, and the first
    of those asked for; with `FENCED` and `CLOSED` the session's revision.
    """

    outcome: Outcome
    revision: int = 0
    log: str = ""
    count: int = 0
    entries: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """Entries for a session's log, which the writer knows as `log` with `count` entries; or with
    `anew` a log of this name in its stead.
    """

    session: str
    client: str
    revision: int
    log: str
    count: int
    entries: Sequence[bytes]
    anew: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the entries."""
        return sum(map(len, self.entries))


@dataclass(frozen=True, slots=True)
class Written:
    """Answer to a write or a close; with `FENCED` and `CLOSED` the session's revision."""

    outcome: Outcome
    revision: int = 0


class LogStore(Protocol):
    """Logs by session. All raise `Away`."""

    async def claim(self, session: str, revision: int) -> Claimed:
        """Take the session up at `revision`, if it has not gone on later, and begin to read its
        log: from now on no writer of an earlier revision adds to it. `OK`, `MISSING`, `FENCED` or
        `CLOSED`.
        """
        ...

    async def read(self, session: str, log: str, start: int) -> Claimed:
        """Read on, from entry `start`. `OK`, or `BEHIND` where the log is another one now."""
        ...

    async def write(self, addition: Addition) -> Written:
        """Add entries, or write a log anew: where there is none, where it is of an earlier
        revision, or where it is the one the writer knows. Any outcome.
        """
        ...

    async def close(self, session: str, revision: int) -> Written:
        """Forget a session but for its revision, which is remembered for `TOMBSTONE_SECONDS`; `OK`,
        `MISSING`, or `FENCED` with nothing done.
        """
        ...

    async def aclose(self) -> None:
        """Give back connections."""
        ...
