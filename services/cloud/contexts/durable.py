"""Contexts that outlast this process: those in memory, with every session's log in a store that all
replicas share.

What is in memory is worked with; KV is a cache of the log. Nothing is told to an edge before the
log has it, unless the store is away: then sessions live on in memory, and are stored when it is
back. Which replica a session is at, its revision says: `using` claims it in the store, and whoever
has an earlier one writes no more.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from weakref import WeakKeyDictionary, WeakValueDictionary

from services.cloud.contexts.base import Behind
from services.cloud.contexts.context import Context, key_of
from services.cloud.contexts.guard import Guard
from services.cloud.contexts.handover import take_over
from services.cloud.contexts.log import Entry, Stored, changes, decode, encode, mark_of, read
from services.cloud.contexts.log_store import Addition, Away, Claimed, Outcome, Written
from services.cloud.contexts.memory import MemoryContexts
from services.cloud.contexts.prefixes import Prefixes
from services.cloud.contexts.record import Form, Record
from services.cloud.contexts.sealing import Seal, place_of
from shared.errors import Fenced, Mismatch
from shared.protocol.messages import Opening

# Times a write or a load is tried again because another replica was there between.
TRIES = 4
# A log is written anew when it takes more than twice what it says, and this.
_SPARE_BYTES = 1 << 16

logger = logging.getLogger(__name__)


class DurableContexts:
    """The store with two floors: `memory` to work in, `logs` to last."""

    def __init__(self, memory: MemoryContexts, logs: Guard, seal: Seal, form: Form) -> None:
        self._memory = memory
        self._logs = logs
        self._seal = seal
        self._form = form
        self._records: WeakKeyDictionary[Context, Record] = WeakKeyDictionary()
        # Requests of one session that have to ask the store line up.
        self._lines: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def using(
        self, session: str, opening: Opening | None, revision: int, owner: str = ""
    ) -> AsyncIterator[Context | None]:
        """See `ContextStore.using`. A session that is here at this revision is not asked for."""
        held = self._memory.held(key_of(owner, session))
        record = self._records.get(held) if held is not None else None
        if record is not None and record.fenced > revision:
            raise Fenced(record.fenced)
        if held is None or held.revision < revision:
            await self._claim(session, opening, revision, owner)
        async with self._memory.using(session, opening, revision, owner) as context:
            yield context

    async def save(self, context: Context) -> None:
        """See `ContextStore.save`."""
        if self._memory.held(context.key) is not context:
            raise Fenced(context.revision)  # closed meanwhile
        for _ in range(TRIES):
            record = self._records.setdefault(context, Record())
            if record.dropped or not context.tokens:
                return
            entries = self._lacking(context, record)
            if not entries:
                return
            try:
                written = await self._write(context, record, entries)
            except Away:
                return
            if written is None:
                return
            if written.outcome is Outcome.MISSING:
                record.log, record.count, record.mark = "", 0, None
            else:
                await self._follow(context)
        raise Behind

    async def close(self, session: str, revision: int, owner: str = "") -> bool:
        """See `ContextStore.close`."""
        self._memory.require_own(session, owner)
        key = key_of(owner, session)
        held = self._memory.held(key)
        if held is not None and held.revision > revision:
            return False
        known = self._memory.forget(key, revision)
        with suppress(Away):
            known |= (await self._logs.close(key, revision)).outcome is Outcome.OK
        return known

    def holding(self, context: Context) -> AbstractContextManager[bool]:
        """See `ContextStore.holding`."""
        return self._memory.holding(context)

    def make_room(self, context: Context, extra: int) -> None:
        """See `ContextStore.make_room`."""
        self._memory.make_room(context, extra)

    def sweep(self) -> int:
        """See `ContextStore.sweep`; the store's own time to live is as long."""
        return self._memory.sweep()

    async def aclose(self) -> None:
        """Give back the store's connections."""
        await self._logs.aclose()

    @property
    def prefixes(self) -> Prefixes:
        """See `ContextStore.prefixes`."""
        return self._memory.prefixes

    def __len__(self) -> int:
        return len(self._memory)

    def __contains__(self, key: str) -> bool:
        return key in self._memory

    @property
    def nbytes(self) -> int:
        """See `ContextStore.nbytes`."""
        return self._memory.nbytes

    async def _claim(
        self, session: str, opening: Opening | None, revision: int, owner: str
    ) -> None:
        """Take a session up at `revision`, and bring its context here to what its log says."""
        key = key_of(owner, session)
        line = self._lines.setdefault(key, asyncio.Lock())
        async with line:
            held = self._memory.held(key)
            if held is None:
                await self._load(session, opening, revision, owner)
            elif held.revision < revision:
                with self._memory.holding(held):
                    async with held.turn:
                        await self._load(session, opening, revision, owner, held)

    async def _load(
        self,
        session: str,
        opening: Opening | None,
        revision: int,
        owner: str,
        held: Context | None = None,
    ) -> None:
        stored, record = await self._fetch(session, key_of(owner, session), revision)
        # Nothing is awaited from here on.
        if stored is None and held is not None:
            held.claim_for(revision)
        if stored is not None:
            self._form.fits(stored.opening)
            if opening not in (None, stored.opening):
                raise Mismatch({"opening": (opening, stored.opening)})
            opening = stored.opening
        context = held or self._memory.find(session, opening, revision, owner)
        if context is None:
            return
        if stored is not None:
            context.require_same(stored.opening)
            with self._memory.holding(context):
                self._memory.make_room(context, stored.nbytes)
                # What of a log was damaged may be here whole.
                take_over(context, stored, revision, cut=record.mark is not None)
        self._records[context] = record

    async def _follow(self, context: Context) -> None:
        """Another replica was faster: bring the context to what it has stored.

        Raises:
            Behind: that changed it.
        """
        stored, record = await self._fetch(context.session, context.key, context.revision)
        self._records[context] = record
        if stored is not None:
            context.require_same(stored.opening)
            if take_over(context, stored, context.revision, cut=False):
                raise Behind

    async def _fetch(self, session: str, key: str, revision: int) -> tuple[Stored | None, Record]:
        """Claim a session by its key and read its log as far as it is sound; `None` where there is
        none, or the store is away.

        Raises:
            Fenced: it has gone on at a later revision, or was closed.
        """
        with suppress(Away):
            for _ in range(TRIES):
                claimed = await self._logs.claim(key, revision)
                if claimed.outcome in (Outcome.FENCED, Outcome.CLOSED):
                    raise Fenced(claimed.revision)
                if claimed.outcome is not Outcome.OK:
                    break
                sealed = await self._all_entries(key, claimed)
                if sealed is not None:
                    return self._read(session, key, claimed, sealed)
        return None, Record()

    async def _all_entries(self, key: str, claimed: Claimed) -> Sequence[bytes] | None:
        """The entries of a log, which may come in several pieces; `None` if it became another."""
        entries = list(claimed.entries)
        size = sum(map(len, entries))
        while len(entries) < claimed.count and size <= self._form.most_bytes:
            piece = await self._logs.read(key, claimed.log, len(entries))
            if piece.outcome is not Outcome.OK:
                return None
            if not piece.entries:
                break
            entries += piece.entries
            size += sum(map(len, piece.entries))
        return entries[: claimed.count]

    def _read(
        self, session: str, key: str, claimed: Claimed, sealed: Sequence[bytes]
    ) -> tuple[Stored | None, Record]:
        def entries() -> Iterator[Entry]:
            for index, each in enumerate(sealed):
                yield decode(self._seal.open(each, place_of(key, claimed.log, index)))

        form = self._form
        found = read(entries(), session=session, hidden=form.hidden, vocab=form.vocab)
        stored, sound = found
        record = Record(claimed.log, claimed.count, sum(map(len, sealed)))
        if sound < claimed.count:
            self._logs.observer.store_damaged(claimed.count - sound)
            logger.warning(
                "a stored log is damaged: what comes after is asked of the edge",
                extra={"entries": claimed.count, "sound": sound},
            )
        elif stored is not None:
            record.mark = stored.mark
        return stored, record

    def _lacking(self, context: Context, record: Record) -> list[Entry]:
        """What is to be written: what has changed, or all where that is less."""
        live = context.states.nbytes + 16 * context.through
        if record.nbytes > 2 * live + _SPARE_BYTES:
            record.mark = None
        return changes(context, record.mark)

    async def _write(
        self, context: Context, record: Record, entries: Sequence[Entry]
    ) -> Written | None:
        """Write entries; `None` if that is that.

        Raises:
            Fenced: the session has gone on elsewhere, or was closed there.
            Away: the store does not answer. What it lacks, it will get with the next save.
        """
        whole, mark, through = record.mark is None, mark_of(context), context.through
        name, first = (secrets.token_hex(8), 0) if whole else (record.log, record.count)
        sealed = [
            self._seal.close(encode(entry), place_of(context.key, name, first + place))
            for place, entry in enumerate(entries)
        ]
        addition = Addition(
            session=context.key,
            client=context.client,
            revision=context.revision,
            log=record.log,
            count=record.count,
            entries=sealed,
            anew=name if whole else "",
        )
        written = await self._logs.write(addition)
        match written.outcome:
            case Outcome.OK:
                record.log, record.count = name, first + len(sealed)
                record.nbytes = addition.nbytes + (0 if whole else record.nbytes)
                record.mark, context.stored_to = mark, through
            case Outcome.FENCED | Outcome.CLOSED:
                record.fenced = written.revision
                if written.outcome is Outcome.CLOSED:
                    self._memory.forget(context.key, written.revision)
                raise Fenced(written.revision)
            case Outcome.DROPPED:
                record.dropped = True
            case _:
                return written
        return None
