"""Asks a log store without ever keeping a request waiting for it: each question has its time, and
after one that found nobody the store is left alone for a while.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from services.cloud.contexts.log_store import (
    Addition,
    Away,
    Claimed,
    LogStore,
    Refused,
    Written,
)
from shared.runtime.breaker import Breaker

Operation = Literal["claim", "read", "append", "replace", "close"]
Answer = TypeVar("Answer", Claimed, Written)

# Seconds for which the store is left alone after the first failure; twice as many after each more.
FIRST_REST_SECONDS = 0.5
LONGEST_REST_SECONDS = 8.0
# Beyond the first MiB a question may take so much longer for each.
SECONDS_PER_BYTE = 0.05 / 2**20
_FREE_BYTES = 2**20

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Told of every question to the store, for metrics."""

    def store_answered(self, operation: Operation, outcome: str, seconds: float) -> None:
        """A question was answered, or was not (`failed`, `refused`, and `skipped` unasked)."""

    def store_up(self, up: bool) -> None:
        """Whether the store answers has changed."""

    def store_damaged(self, entries: int) -> None:
        """Entries were read that are not what was stored."""


@dataclass(slots=True)
class Guard:
    """A `LogStore` in front of another.

    Args:
        timeout_seconds: for a question, and a little more for a large one.
        breaker: whether the store is to be asked.
    """

    store: LogStore
    timeout_seconds: float
    observer: Observer
    breaker: Breaker = field(
        default_factory=lambda: Breaker(FIRST_REST_SECONDS, LONGEST_REST_SECONDS)
    )
    _refusal: str = ""

    async def claim(self, session: str, revision: int) -> Claimed:
        """See `LogStore.claim`."""
        return await self._ask("claim", 0, lambda: self.store.claim(session, revision))

    async def read(self, session: str, log: str, start: int) -> Claimed:
        """See `LogStore.read`."""
        return await self._ask("read", 0, lambda: self.store.read(session, log, start))

    async def write(self, addition: Addition) -> Written:
        """See `LogStore.write`."""
        operation: Operation = "replace" if addition.anew else "append"
        return await self._ask(operation, addition.nbytes, lambda: self.store.write(addition))

    async def close(self, session: str, revision: int) -> Written:
        """See `LogStore.close`."""
        return await self._ask("close", 0, lambda: self.store.close(session, revision))

    async def aclose(self) -> None:
        """See `LogStore.aclose`."""
        await self.store.aclose()

    async def _ask(
        self, operation: Operation, nbytes: int, question: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        breaker, began = self.breaker, self.breaker.clock()
        if not breaker.rested:
            self.observer.store_answered(operation, "skipped", 0.0)
            raise Away("left alone for a while")
        limit = self.timeout_seconds + max(0, nbytes - _FREE_BYTES) * SECONDS_PER_BYTE
        if breaker.failures:  # whoever comes while this one tries does without
            breaker.hold(limit)
        outcome = "cancelled"
        try:
            async with asyncio.timeout(limit):
                answer = await question()
            outcome = answer.outcome.value
            self._answered("")
            return answer
        except Refused as error:
            outcome = "refused"
            self._answered(str(error))
            raise
        except (Away, TimeoutError) as error:
            outcome = "failed"
            self._failed(str(error) or "no answer in time")
            raise Away(str(error)) from error
        finally:
            self.observer.store_answered(operation, outcome, breaker.clock() - began)

    def _answered(self, refusal: str) -> None:
        if self.breaker.failures:
            self.breaker.succeeded()
            self.observer.store_up(True)
            logger.info("the context store is back")
        if refusal and refusal != self._refusal:
            logger.warning("the context store refuses", extra={"reason": refusal})
        self._refusal = refusal

    def _failed(self, reason: str) -> None:
        if not self.breaker.failures:
            self.observer.store_up(False)
            logger.warning(
                "the context store is away: sessions live on in memory alone",
                extra={"reason": reason},
            )
        self.breaker.failed(reason)
