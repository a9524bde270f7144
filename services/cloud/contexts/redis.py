"""Logs in Redis: one primary (with replicas of its own or not), not Redis Cluster; 7 or later."""

from collections.abc import Callable
from hashlib import sha1
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.cloud.contexts.log_store import (
    TOMBSTONE_SECONDS,
    Addition,
    Away,
    Claimed,
    Outcome,
    Refused,
    Written,
)
from services.cloud.contexts.scripts import CLAIM, CLOSE, READ, WRITE

# Bytes of entries in one answer, after which the rest is asked for again: Redis serves nobody else
# while it gathers them.
CHUNK_BYTES = 4 << 20

# Of what Redis answers, that which holds for everybody.
_AWAY = (
    exceptions.ConnectionError,  # an unknown password too
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    OSError,
)


class RedisLogs:
    """A `LogStore` on a Redis server.

    Args:
        url: `redis://` or `rediss://`, with password, host, port and number of the database.
        ttl_seconds: after which a session that nobody wrote to or claimed is gone.
        bytes_per_client: of entries; a client's least recently written logs make room for others.
        prefix: of every key.
    """

    def __init__(
        self, url: str, *, ttl_seconds: float, bytes_per_client: int, prefix: str = "tandem"
    ) -> None:
        # Who asks sets the time; nothing is asked twice behind its back.
        self._redis: Any = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=None)
        self._ttl = round(1000 * ttl_seconds)
        self._budget = bytes_per_client
        self._prefix = prefix
        self._names: dict[str, str] = {}

    async def claim(self, session: str, revision: int) -> Claimed:
        """See `LogStore.claim`."""
        return _claimed(await self._run(CLAIM, session, revision, self._ttl, CHUNK_BYTES))

    async def read(self, session: str, log: str, start: int) -> Claimed:
        """See `LogStore.read`."""
        return _claimed(await self._run(READ, session, log, start, CHUNK_BYTES))

    async def write(self, addition: Addition) -> Written:
        """See `LogStore.write`."""
        answer = await self._run(
            WRITE,
            addition.session,
            addition.revision,
            addition.log,
            addition.count,
            addition.anew,
            addition.client,
            self._budget,
            self._ttl,
            *addition.entries,
        )
        return _written(answer)

    async def close(self, session: str, revision: int) -> Written:
        """See `LogStore.close`."""
        return _written(await self._run(CLOSE, session, revision, round(1000 * TOMBSTONE_SECONDS)))

    async def aclose(self) -> None:
        """See `LogStore.aclose`."""
        await self._redis.aclose()

    async def _run(self, script: str, session: str, *arguments: str | int | bytes) -> Any:
        """Run a script by its name, which Redis forgets when it is started again.

        Raises:
            Away, Refused: as `LogStore`.
        """
        name = self._names.get(script)
        if name is None:
            name = self._names[script] = sha1(script.encode(), usedforsecurity=False).hexdigest()
        rest = (1, f"{self._prefix}:session:{session}", self._prefix, session, *arguments)
        try:
            try:
                return await self._redis.execute_command("EVALSHA", name, *rest)
            except exceptions.NoScriptError:
                return await self._redis.execute_command("EVAL", script, *rest)
        except _AWAY as error:
            raise Away(_told(error)) from error
        except exceptions.RedisError as error:
            raise Refused(_told(error)) from error


def _told(error: Exception) -> str:
    """What is wrong, by kind: a message may name a host or a script."""
    return type(error).__name__


def _answer(read: Callable[[Any], Any], answer: Any) -> Any:
    try:
        return read(answer)
    except (ValueError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise Refused("an answer that is none of this store's") from error


def _claimed(answer: Any) -> Claimed:
    def read(answer: Any) -> Claimed:
        outcome = Outcome(answer[0].decode())
        if outcome is not Outcome.OK:
            return Claimed(outcome=outcome, revision=int(answer[1]) if answer[1:] else 0)
        _, log, count, entries = answer
        return Claimed(outcome=outcome, log=log.decode(), count=int(count), entries=entries)

    claimed: Claimed = _answer(read, answer)
    return claimed


def _written(answer: Any) -> Written:
    def read(answer: Any) -> Written:
        return Written(Outcome(answer[0].decode()), int(answer[1]) if answer[1:] else 0)

    written: Written = _answer(read, answer)
    return written
