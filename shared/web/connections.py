"""Who is connected, and for how long each has been owing something: a head, a body, the reading of
an answer. One connection that holds out costs the others nothing but its place, and that for a
bounded time.

Every list is in the order of time, so that looking after 10,000 connections costs no more than
looking at those that are due.
"""

import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shared.web.refusals import ADDRESS_FULL, EVICTED, FULL, UNREAD, Refusal

# How long an idle connection is kept: longer than clients and proxies keep theirs, so that no
# request meets a connection that is being closed.
KEEP_ALIVE_SECONDS = 75
# How long a client that was answered before it had sent everything may go on sending: one that is
# cut off at once loses the answer.
LINGER_SECONDS = 2.0
# A half-sent head gives way to a new connection after so long, where there is no other room.
PATIENCE_SECONDS = 1.0
# Connections that are being refused, beyond the limit; more are cut off without an answer.
TURNED_AWAY = 64
# Files a service opens besides its clients' connections: its own connections, logs, the model.
SPARE_FILES = 512


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take. `most_per_address` of 0 is no limit."""

    most: int
    most_per_address: int
    head_seconds: float
    body_seconds: float
    write_seconds: float


class Connection(Protocol):
    """What is asked of a connection."""

    def late_head(self) -> None:
        """Its head, or its handshake, has taken too long."""

    def look_at_body(self) -> None:
        """Its body has been arriving for `body_seconds` since the last look."""

    def close(self) -> None:
        """It has been idle for long."""

    def abort(self) -> None:
        """End now, whatever is under way."""


Queue = dict[Connection, float]


class Connections:
    """All connections of a service, and the clock they are held against.

    Args:
        clock: seconds, of the event loop.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self.clock = clock
        # Told the reason of each refusal.
        self.refused: Callable[[str], None] = lambda reason: None
        # Each since when, the longest first.
        self.idle: Queue = {}
        self.heads: Queue = {}
        self.bodies: Queue = {}
        self.stalled: Queue = {}
        # Each until when.
        self.ending: Queue = {}
        self._open: dict[Connection, str] = {}
        self._turned_away: set[Connection] = set()
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: Connection, address: str) -> Refusal | None:
        """Take in a new connection, or say why not. The one idle for longest makes room."""
        refusal = None
        most = self.limits.most_per_address
        if most and self._addresses[address] >= most:
            refusal = ADDRESS_FULL
        elif len(self._open) >= self.limits.most and not self._make_room():
            refusal = FULL
        if refusal is None:
            self._open[connection] = address
            self._addresses[address] += 1
            self.idle[connection] = self.clock()
            return None
        self.refused(refusal.reason)
        self._turned_away.add(connection)
        if len(self._turned_away) > TURNED_AWAY:
            connection.abort()
        return refusal

    def succeed(self, before: Connection, connection: Connection) -> None:
        """Another object is the connection from now on."""
        address = self._open.get(before, "")
        self.leave(before)
        self._open[connection] = address
        self._addresses[address] += 1
        self.idle[connection] = self.clock()

    def leave(self, connection: Connection) -> None:
        """It has ended, or as good as; said more than once of the same."""
        for queue in (self.idle, self.heads, self.bodies, self.stalled, self.ending):
            queue.pop(connection, None)
        self._turned_away.discard(connection)
        address = self._open.pop(connection, None)
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def end_within(self, connection: Connection, seconds: float) -> None:
        """Cut it off if it has not ended by then."""
        for queue in (self.idle, self.heads, self.bodies):
            queue.pop(connection, None)
        self.ending.setdefault(connection, self.clock() + seconds)

    def sweep(self) -> None:
        """Look at those that are due; to be called some ten times a second."""
        now, limits = self.clock(), self.limits
        for connection in _since(self.heads, now - limits.head_seconds):
            connection.late_head()
        for connection in _since(self.bodies, now - limits.body_seconds):
            connection.look_at_body()
        for connection in _since(self.stalled, now - limits.write_seconds):
            self.refused(UNREAD)
            connection.abort()
        for connection in _since(self.idle, now - KEEP_ALIVE_SECONDS):
            connection.close()
        for connection in [each for each, until in self.ending.items() if until <= now]:
            connection.abort()

    def _make_room(self) -> bool:
        """End the connection that has been idle for longest; where none is, the head that has been
        arriving for longest.
        """
        victim = next(iter(self.idle), None)
        if victim is None:
            waited = _since(self.heads, self.clock() - PATIENCE_SECONDS)
            victim = waited[0] if waited else None
        if victim is None:
            return False
        self.refused(EVICTED)
        self.leave(victim)
        victim.abort()
        return True


def files_for(most: int) -> int:
    """Raise this process's limit of open files as far as it may, and return how many connections of
    `most` that allows.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return most
    return min(most, max(1, hard - SPARE_FILES, hard // 2))


def _since(queue: Queue, then: float) -> list[Connection]:
    """Those that have been in it since then, or for longer."""
    found = []
    for connection, since in queue.items():
        if since > then:
            break
        found.append(connection)
    return found
