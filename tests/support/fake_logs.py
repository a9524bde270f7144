"""A `LogStore` in a dictionary: what Redis is held to, and what stands for it where thousands of
cases are tried.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.cloud.contexts.log_store import (
    TOMBSTONE_SECONDS,
    Addition,
    Away,
    Claimed,
    Outcome,
    Written,
)


@dataclass(slots=True)
class Kept:
    """What is kept of a session: its log, or only that it was closed."""

    revision: int
    expires: float
    log: str = ""
    entries: list[bytes] = field(default_factory=list)
    client: str = ""
    closed: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the entries."""
        return sum(map(len, self.entries))


@dataclass(slots=True)
class FakeLogs:
    """Logs in memory, on a clock of their own.

    `down` makes it answer nothing at all, `after_writing` loses the answers to writes alone;
    `chunk` is how many entries one answer holds.
    """

    bytes_per_client: int = 1 << 20
    ttl_seconds: float = 60.0
    now: float = 0.0
    down: bool = False
    after_writing: bool = False
    chunk: int = 3
    kept: dict[str, Kept] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def claim(self, session: str, revision: int) -> Claimed:
        """See `LogStore.claim`."""
        await self._asked("claim")
        kept = self._find(session)
        if kept is None:
            return Claimed(outcome=Outcome.MISSING)
        if kept.closed:
            if kept.revision >= revision:
                return Claimed(outcome=Outcome.CLOSED, revision=kept.revision)
            return Claimed(outcome=Outcome.MISSING)
        if kept.revision > revision:
            return Claimed(outcome=Outcome.FENCED, revision=kept.revision)
        kept.revision, kept.expires = revision, self.now + self.ttl_seconds
        return self._from(kept, 0)

    async def read(self, session: str, log: str, start: int) -> Claimed:
        """See `LogStore.read`."""
        await self._asked("read")
        kept = self._find(session)
        if kept is None or kept.closed or kept.log != log:
            return Claimed(outcome=Outcome.BEHIND)
        return self._from(kept, start)

    async def write(self, addition: Addition) -> Written:
        """See `LogStore.write`."""
        await self._asked("replace" if addition.anew else "append")
        written = self._write(addition)
        if self.after_writing:
            raise Away("the answer is lost")
        return written

    async def close(self, session: str, revision: int) -> Written:
        """See `LogStore.close`."""
        await self._asked("close")
        kept = self._find(session)
        if kept is not None and not kept.closed and kept.revision > revision:
            return Written(Outcome.FENCED, kept.revision)
        closed = kept.revision if kept is not None and kept.closed else 0
        self.kept[session] = Kept(max(revision, closed), self.now + TOMBSTONE_SECONDS, closed=True)
        return Written(Outcome.OK if kept is not None and not kept.closed else Outcome.MISSING)

    async def aclose(self) -> None:
        """See `LogStore.aclose`."""

    def used(self, client: str) -> dict[str, int]:
        """A client's logs and their bytes, the one written longest ago first."""
        logs = [
            (kept.expires, session, kept.nbytes)
            for session, kept in self.kept.items()
            if kept.client == client and kept.log and self._find(session)
        ]
        return {session: nbytes for _, session, nbytes in sorted(logs)}

    async def _asked(self, operation: str) -> None:
        self.asked.append(operation)
        await asyncio.sleep(0)
        if self.down:
            raise Away("down")

    def _find(self, session: str) -> Kept | None:
        kept = self.kept.get(session)
        return kept if kept is not None and kept.expires > self.now else None

    def _from(self, kept: Kept, start: int) -> Claimed:
        entries: Sequence[bytes] = kept.entries[start : start + self.chunk]
        return Claimed(outcome=Outcome.OK, log=kept.log, count=len(kept.entries), entries=entries)

    def _write(self, addition: Addition) -> Written:
        kept, session = self._find(addition.session), addition.session
        if kept is not None and kept.closed:
            if kept.revision >= addition.revision:
                return Written(Outcome.CLOSED, kept.revision)
            kept = None
        if kept is not None and kept.revision > addition.revision:
            return Written(Outcome.FENCED, kept.revision)
        if kept is not None and kept.revision == addition.revision:
            if not kept.log and addition.log:
                return Written(Outcome.DROPPED)
            if (kept.log, len(kept.entries)) != (addition.log, addition.count):
                return Written(Outcome.BEHIND)
        elif not addition.anew:
            return Written(Outcome.MISSING)
        before = kept.entries if kept is not None and not addition.anew else []
        fresh = Kept(
            addition.revision,
            self.now + self.ttl_seconds,
            addition.anew or addition.log,
            [*before, *addition.entries],
            addition.client,
        )
        if fresh.nbytes > self.bytes_per_client:
            fresh.log, fresh.entries = "", []
            self.kept[session] = fresh
            return Written(Outcome.DROPPED)
        self.kept[session] = fresh
        self._make_room(addition.client, session)
        return Written(Outcome.OK)

    def _make_room(self, client: str, session: str) -> None:
        used = self.used(client)
        over = sum(used.values()) - self.bytes_per_client
        for other, nbytes in used.items():
            if over > 0 and other != session:
                over -= nbytes
                dropped = self.kept[other]
                dropped.log, dropped.entries = "", []
                dropped.expires = self.now + self.ttl_seconds
