"""KV of prompts that others begin with: computed once, copied by whoever's prompt begins the same.

Prompts are compared by what their KV is a function of: the coded states where the edge sends them,
byte for byte; the tokens where the cloud runs every layer. A prompt is cut into chunks, and the
name of a chunk is the hash of everything up to its end (vLLM's automatic prefix caching names
blocks of KV so), under the session's owner and the tag of the edge's caller: nobody learns by the
clock what somebody else has asked. Rows are copied, not shared: attention reads a session's rows in
one piece, and on a CPU gathering them took two to ten times as long as attending to them.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from weakref import WeakValueDictionary

from services.cloud.contexts.context import Context, Lender
from shared.model import KVCache

# Positions of a chunk: a prompt is shared up to a multiple of them.
CHUNK = 64


@dataclass(slots=True)
class Prefixes:
    """Knows where prompts' KV is, and keeps that of ended sessions for a while.

    Args:
        budget_bytes: of KV of ended sessions; 0 keeps none.
        ttl_seconds: how long it is kept without having been of use.
        release: gives a cache back that no step may use any more.
        clock: seconds, monotonic.
    """

    budget_bytes: int
    ttl_seconds: float
    release: Callable[[KVCache], None]
    clock: Callable[[], float] = time.monotonic
    _named: "WeakValueDictionary[bytes, Lender]" = field(default_factory=WeakValueDictionary)
    _kept: "OrderedDict[Lender, float]" = field(default_factory=OrderedDict)
    _nbytes: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of KV of ended sessions."""
        return self._nbytes

    def find(self, context: Context, *, whole: bool) -> tuple[Lender, int] | None:
        """Whose KV the session's prompt can begin with, and for how many positions: at the layers
        from its split on, or with `whole` at every layer, its states among them.
        """
        names = _names(context, whole=whole)
        for count in range(len(names), 0, -1):
            lender = self._named.get(names[count - 1])
            if lender is not None and lender is not context.lender and not lender.cache.closed:
                if lender in self._kept:
                    self._kept[lender] = self.clock()
                    self._kept.move_to_end(lender)
                return lender, count * CHUNK
        return None

    def learn(self, context: Context, *, whole: bool) -> None:
        """The session's prompt has run, through every layer if `whole`: others may begin with
        it.
        """
        if context.cache is None:
            return
        context.lender = Lender(context.cache, context.states)
        names = _names(context, whole=False)
        for name in (*names, *_names(context, whole=True)) if whole else names:
            held = self._named.get(name)
            if held is None or held.cache.closed:
                self._named[name] = context.lender

    def keep(self, context: Context) -> None:
        """Take over the KV of a session that has ended, or release it if nobody could use it."""
        cache, context.cache = context.cache, None
        lender, context.lender = context.lender, None
        if cache is None:
            return
        useful = lender is not None and any(held is lender for held in self._named.values())
        if lender is None or not useful or cache.nbytes > self.budget_bytes:
            self.release(cache)
            return
        self._kept[lender] = self.clock()
        self._nbytes += cache.nbytes
        while self._nbytes > self.budget_bytes:
            self.give_up()

    def give_up(self) -> int:
        """Release what was not of use for the longest time; returns its bytes, 0 if there is
        none.
        """
        if not self._kept:
            return 0
        lender, _ = self._kept.popitem(last=False)
        freed = lender.cache.nbytes
        self._nbytes -= freed
        self.release(lender.cache)
        return freed

    def sweep(self) -> None:
        """Release what was of no use for the time to live."""
        deadline = self.clock() - self.ttl_seconds
        while self._kept and next(iter(self._kept.values())) < deadline:
            self.give_up()


def _names(context: Context, *, whole: bool) -> list[bytes]:
    """A name for each chunk of the prompt: of its tokens with `whole`, else of its coded states as
    far as they are here. The last position stays out: its row is run for what follows it.
    """
    opening = context.opening
    whole = whole or not context.carries_states
    held = context.through if whole else min(context.through, context.states.end)
    chunks = min(held, opening.prompt_tokens - 1) // CHUNK
    names = context.chunk_names.setdefault(whole, [])
    if not opening.client or len(names) == chunks:
        return names
    scope = f"{context.client} {opening.split} {opening.codec} {whole}".encode()
    hasher = blake2b(scope, digest_size=32, person=b"tandem-prefix")
    names.clear()
    for first in range(0, chunks * CHUNK, CHUNK):
        if whole:
            hasher.update(repr(context.tokens[first : first + CHUNK]).encode())
        else:
            block = context.states.slice(first, first + CHUNK)
            hasher.update(block.payload)
            hasher.update(block.scales)
        names.append(hasher.digest())
    return names
