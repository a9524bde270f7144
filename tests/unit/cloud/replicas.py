"""Contexts of one replica around a store of logs, without engine or network."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.cloud.contexts import Behind, Context, DurableContexts, Form, Guard, MemoryContexts
from services.cloud.contexts.sealing import seal_of
from shared.protocol.messages import Block
from shared.runtime.breaker import Breaker
from tests.support.fake_logs import FakeLogs
from tests.support.toy_model import VOCABULARY, WIDTH
from tests.unit.cloud.sessions import SESSION


@dataclass
class Seen:
    """An observer."""

    answers: list[tuple[str, str]] = field(default_factory=list)
    up: list[bool] = field(default_factory=list)
    damaged: int = 0

    def store_answered(self, operation: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.answers.append((operation, outcome))

    def store_up(self, up: bool) -> None:
        self.up.append(up)

    def store_damaged(self, entries: int) -> None:
        self.damaged += entries


class Replica:
    """One replica's contexts around a shared store."""

    def __init__(self, logs: FakeLogs, key: str = "", timeout: float = 5.0) -> None:
        self.now = 0.0
        self.behind = 0
        self.seen = Seen()
        self.memory = MemoryContexts(
            hidden=WIDTH,
            budget_bytes=1 << 20,
            max_contexts=8,
            ttl_seconds=60,
            release=lambda cache: None,
        )
        self.guard = Guard(
            logs, timeout, self.seen, Breaker(0.5, 8.0, clock=lambda: self.now, jitter=lambda: 1.0)
        )
        form = Form(WIDTH, VOCABULARY, lambda opening: None, 1 << 20)
        self.store = DurableContexts(self.memory, self.guard, seal_of(key), form)

    async def take(self, block: Block, session: str = SESSION) -> Context:
        """Apply a block and save, as a request does; once more if another was faster."""
        async with self.store.using(session, block.opening, block.revision) as context:
            assert context is not None
            for _ in range(3):
                async with context.turn:
                    context.apply(block)
                    try:
                        await self.store.save(context)
                    except Behind:
                        self.behind += 1
                        continue
                    return context
            raise AssertionError("behind for ever")

    @asynccontextmanager
    async def held(self, revision: int = 0) -> AsyncIterator[Context | None]:
        async with self.store.using(SESSION, None, revision) as context:
            yield context

    def asked(self) -> list[tuple[str, str]]:
        """What was asked of the store since the last look."""
        answers, self.seen.answers = self.seen.answers, []
        return answers
