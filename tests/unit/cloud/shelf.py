"""A store in memory with a clock of its own, and contexts whose KV is a number of bytes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

from services.cloud.contexts import Context, MemoryContexts
from shared.model import KVCache
from shared.protocol.messages import Opening
from tests.support.toy_model import WIDTH
from tests.unit.cloud.sessions import CLOUD_OPENING, block

LOG_BYTES = 3 * 16  # three tokens with their digests
KV_BYTES = 1000


@dataclass(eq=False)
class Cache:
    nbytes: int = KV_BYTES
    closed: bool = False


@dataclass
class Shelf:
    """A store with a clock of its own and a record of the caches given back."""

    budget_bytes: int = 1 << 20
    max_contexts: int = 8
    prefix_bytes: int = 0
    share_per_owner: float = 1.0
    now: float = 0.0
    released: list[int] = field(default_factory=list)
    made: list[Cache] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.store = MemoryContexts(
            hidden=WIDTH,
            budget_bytes=self.budget_bytes,
            max_contexts=self.max_contexts,
            ttl_seconds=60,
            prefix_bytes=self.prefix_bytes,
            share_per_owner=self.share_per_owner,
            release=lambda cache: self.released.append(id(cache)),
            on_change=lambda change: self.changes.update([change]),
            clock=lambda: self.now,
        )

    def fill(self, *sessions: str, revision: int = 0, owner: str = "") -> list[Context]:
        """Contexts of three tokens and a cache each, idle."""
        return [self._filled(session, revision, owner) for session in sessions]

    def _filled(self, session: str, revision: int, owner: str) -> Context:
        with self.using(session, CLOUD_OPENING, revision, owner) as context:
            assert isinstance(context, Context)
            first = block(3, opening=CLOUD_OPENING, session=session, revision=revision)
            context.apply(first)
            cache = Cache()
            self.made.append(cache)
            context.cache = cast(KVCache, cache)
        return context

    @contextmanager
    def using(
        self, session: str, opening: Opening | None, revision: int = 0, owner: str = ""
    ) -> Iterator[Any]:
        """As `store.using`, which awaits nothing."""
        context = self.store.find(session, opening, revision, owner)
        with nullcontext() if context is None else self.store.holding(context):
            yield context

    def held(self, *sessions: str) -> list[bool]:
        return [self._find(session) is not None for session in sessions]

    def _find(self, session: str) -> Context | None:
        return self.store.held(session)
