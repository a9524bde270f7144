"""Contexts in this process's memory, with a byte budget, a time to live and least-recently-used
eviction.

What is evicted is not lost to the user: KV is rebuilt from the log, and a lost log is resent by the
edge.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.cloud.contexts.base import Change
from services.cloud.contexts.context import Context, key_of
from services.cloud.contexts.prefixes import Prefixes
from services.cloud.contexts.verified import VerifiedContext
from shared.errors import Fenced, NotFound, OutOfMemory, Overloaded
from shared.model import KVCache
from shared.protocol.messages import Opening

# Seconds for which a closed session is not opened again: a block may be this late.
TOMBSTONE_SECONDS = 60.0
# Closed sessions remembered, for each that may be held.
_TOMBSTONES = 4


class MemoryContexts:
    """The in-memory store.

    Args:
        hidden: width of the model's states.
        budget_bytes: for logs and KV together.
        max_contexts: sessions held at once.
        ttl_seconds: idle time after which a context is forgotten.
        release: gives a KV cache back; called with caches no step may use any more.
        prefix_bytes: of the budget, what KV of closed sessions may take that is kept for prompts
            that begin alike.
        share_per_owner: of both bounds, what the sessions of one owner may have; its own idle ones
            make room first.
        on_change: told what befalls a context.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        hidden: int,
        budget_bytes: int,
        max_contexts: int,
        ttl_seconds: float,
        release: Callable[[KVCache], None],
        prefix_bytes: int = 0,
        share_per_owner: float = 1.0,
        on_change: Callable[[Change], None] = lambda change: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hidden = hidden
        self._budget = budget_bytes
        self._max = max_contexts
        self._own_budget = int(share_per_owner * budget_bytes)
        self._own_max = max(1, int(share_per_owner * max_contexts))
        self._ttl = ttl_seconds
        self._release = release
        self._prefixes = Prefixes(prefix_bytes, ttl_seconds, release, clock)
        self._on_change = on_change
        self._clock = clock
        self._contexts: OrderedDict[str, Context] = OrderedDict()
        # Closed sessions: the revision at which, and when.
        self._closed: OrderedDict[str, tuple[int, float]] = OrderedDict()
        # Kept as contexts change: adding them all up for every block would not scale.
        self._held = 0
        self._owned: Counter[str] = Counter()  # bytes, by owner
        self._open: Counter[str] = Counter()  # sessions, by owner

    @asynccontextmanager
    async def using(
        self, session: str, opening: Opening | None, revision: int, owner: str = ""
    ) -> AsyncIterator[Context | None]:
        """See `ContextStore.using`."""
        context = self.find(session, opening, revision, owner)
        if context is None:
            yield None
            return
        with self.holding(context):
            yield context

    @contextmanager
    def holding(self, context: Context) -> Iterator[bool]:
        """See `ContextStore.holding`."""
        key = context.key
        context.users += 1
        try:
            yield self._contexts.get(key) is context
        finally:
            context.users -= 1
            context.last_used = self._clock()
            if not context.users and not context.tokens:
                # Its first block was refused or never came.
                self._forget(context, "closed")
            elif self._contexts.get(key) is context:
                self._contexts.move_to_end(key)
                self._count(context)
            elif context.users == 0:
                self._prefixes.keep(context)

    async def save(self, context: Context) -> None:
        """Nothing outlasts this process."""

    async def aclose(self) -> None:
        """There is nothing to give back."""

    def find(
        self, session: str, opening: Opening | None, revision: int, owner: str = ""
    ) -> Context | None:
        """The context that `using` holds, found or opened; raises as that."""
        key = key_of(owner, session)
        context = self._contexts.get(key)
        if context is not None:
            if context.revision > revision:
                raise Fenced(context.revision)
            if opening is not None:
                context.require_same(opening)
            return context
        if opening is None:
            self.require_own(session, owner)
            return None
        self._forget_closed()
        closed, _ = self._closed.get(key, (-1, 0.0))
        if closed >= revision:
            raise Fenced(closed)
        self._make_place(owner)
        kind = VerifiedContext if opening.mode == "verified" else Context
        context = kind(session, opening, hidden=self._hidden, owner=owner)
        self._contexts[key] = context
        self._open[owner] += 1
        self._on_change("opened")
        return context

    def held(self, key: str) -> Context | None:
        """The context of a session's key, if it is here."""
        return self._contexts.get(key)

    def require_own(self, session: str, owner: str) -> None:
        """Refuse what is asked of another owner's session; of an unknown one nothing is said here.

        Raises:
            NotFound: it is here, and another's.
        """
        if key_of(owner, session) not in self._contexts and any(
            context.session == session for context in self._contexts.values()
        ):
            raise NotFound("no such session")

    def make_room(self, context: Context, extra: int) -> None:
        """See `ContextStore.make_room`. What is asked for is on the books at once: other sessions'
        passes start before these bytes exist. The next count corrects it.
        """
        self._count(context)
        if self._own_budget < self._budget:
            own = self._owned[context.owner] + extra - self._own_budget
            if self._give_up(context, own, lambda each: each.owner == context.owner) > 0:
                raise OutOfMemory("the sessions of this key have all the memory they may")
        over = self._held + self._prefixes.nbytes + extra - self._budget
        while over > 0 and (freed := self._prefixes.give_up()):
            over -= freed
        if (over := self._give_up(context, over, lambda _: True)) > 0:
            raise OutOfMemory(f"contexts need {over} bytes more than the budget of {self._budget}")
        if self._contexts.get(context.key) is context:
            # One closed meanwhile is off the books for good.
            self._book(context, extra)

    def _give_up(self, context: Context, over: int, which: Callable[[Context], bool]) -> int:
        """Give up KV and then sessions, of those that are idle; returns what is still missing."""
        for drop in (self._evict_cache, self._evict) if over > 0 else ():
            idle = [c for c in self._contexts.values() if c is not context and not c.users]
            for each in filter(which, idle):
                over -= drop(each) if over > 0 else 0
        return over

    def _book(self, context: Context, nbytes: int) -> None:
        context.counted += nbytes
        self._held += nbytes
        self._owned[context.owner] += nbytes

    async def close(self, session: str, revision: int, owner: str = "") -> bool:
        """See `ContextStore.close`."""
        self.require_own(session, owner)
        return self.forget(key_of(owner, session), revision)

    def forget(self, key: str, revision: int) -> bool:
        """Close the session of a key at once. A context still in use gives its KV back when its
        last user leaves.
        """
        context = self._contexts.get(key)
        if context is not None and context.revision > revision:
            return False
        self._bury(key, revision)
        if context is None:
            return False
        self._remove(key)
        self._on_change("closed")
        if context.users == 0:
            self._prefixes.keep(context)
        return True

    def sweep(self) -> int:
        """See `ContextStore.sweep`."""
        deadline = self._clock() - self._ttl
        expired = [c for c in self._contexts.values() if not c.users and c.last_used < deadline]
        for context in expired:
            self._forget(context, "expired")
        self._forget_closed()
        self._prefixes.sweep()
        return len(expired)

    @property
    def prefixes(self) -> Prefixes:
        """See `ContextStore.prefixes`."""
        return self._prefixes

    def __contains__(self, key: str) -> bool:
        return key in self._contexts

    def __len__(self) -> int:
        return len(self._contexts)

    @property
    def nbytes(self) -> int:
        """See `ContextStore.nbytes`."""
        return self._held

    def _bury(self, key: str, revision: int) -> None:
        before, _ = self._closed.pop(key, (-1, 0.0))
        self._closed[key] = (max(before, revision), self._clock())
        self._forget_closed()

    def _forget_closed(self) -> None:
        """Closed sessions come in the order of their closing."""
        deadline = self._clock() - TOMBSTONE_SECONDS
        while self._closed:
            key, (_, when) = next(iter(self._closed.items()))
            if when >= deadline and len(self._closed) <= _TOMBSTONES * self._max:
                return
            del self._closed[key]

    def _make_place(self, owner: str) -> None:
        if self._open[owner] >= self._own_max:
            self._evict_idle(lambda each: each.owner == owner, self._own_max)
        if len(self._contexts) >= self._max:
            self._evict_idle(lambda _: True, self._max)

    def _evict_idle(self, which: Callable[[Context], bool], most: int) -> None:
        found = (each for each in self._contexts.values() if not each.users and which(each))
        idle = next(found, None)
        if idle is None:
            raise Overloaded(f"all {most} contexts are in use")
        self._evict(idle)

    def _evict(self, context: Context) -> int:
        return self._forget(context, "evicted")

    def _evict_cache(self, context: Context) -> int:
        freed = self._drop_cache(context)
        if freed:
            self._on_change("kv_evicted")
        return freed

    def _forget(self, context: Context, why: Change) -> int:
        freed = context.nbytes
        if self._contexts.get(context.key) is context:
            self._remove(context.key)
            self._on_change(why)
        self._drop_cache(context)
        return freed

    def _remove(self, key: str) -> Context | None:
        context = self._contexts.pop(key, None)
        if context is not None:
            context.claim.live = context.claim.wanted = False
            self._book(context, -context.counted)
            self._open[context.owner] -= 1
            if not self._open[context.owner]:
                del self._open[context.owner], self._owned[context.owner]
        return context

    def _count(self, context: Context) -> None:
        """Bring the books up to what `context` holds now, if it is still one of ours."""
        if self._contexts.get(context.key) is context:
            self._book(context, context.nbytes - context.counted)

    def _drop_cache(self, context: Context) -> int:
        cache, context.cache = context.cache, None
        context.lender = None
        if cache is None:
            return 0
        freed = cache.nbytes
        self._release(cache)
        self._count(context)
        return freed
