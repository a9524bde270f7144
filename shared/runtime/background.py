"""Tasks nobody awaits, kept alive and drained at shutdown; their failures are logged, never
lost.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from shared.errors import TandemError

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Background:
    """A set of running tasks (the event loop itself keeps only weak references to them)."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start `work`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for what is running, then cancel what is left."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_seconds)
            for task in late:
                task.cancel()

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # An error of our own tree reaches whoever awaits the task; anything else is a bug to be
        # seen.
        if not isinstance(error, TandemError):
            _log.error("a background task failed", exc_info=error)
