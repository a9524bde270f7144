"""A service whose engine fails with words it was given: `python -m tests.support.raising edge`.

Requests of one seed (`EDGE`, `CLOUD`) have the engine of that side raise an exception of no kind
that is known here; a task nobody awaits fails besides, a thread, and what cannot be raised at all.
"""

import asyncio
import importlib
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.cloud.engine import CloudEngine
from services.edge.answering import Answering
from services.edge.engine import EdgeEngine, Proposing
from tests.support.services import ROOT, Process

EDGE, CLOUD = 666, 667
WORDS = "TEST_WORDS_OF_ERRORS"


def launch(role: str, environment: Any, log: Path) -> Process:
    """See `services.Launch`."""

    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.raising", role],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


class Odd(Exception):
    """An error of somebody else's."""


class _Unraisable:
    def __del__(self) -> None:
        raise Odd(os.environ[WORDS])


def _raise() -> None:
    raise Odd(os.environ[WORDS])


async def _fail() -> None:
    _raise()


def _patch() -> None:
    edge, cloud, answer = EdgeEngine.step, CloudEngine.step, Answering.answer

    def edge_step(self: EdgeEngine, batch: Sequence[tuple[Any, int]]) -> Any:
        for work, _ in batch:
            question = work.question if isinstance(work, Proposing) else None
            if question is not None and question.seed == EDGE:
                _raise()
        return edge(self, batch)

    def cloud_step(self: CloudEngine, batch: Sequence[tuple[Any, int]]) -> Any:
        if any(work.draw.seed == CLOUD for work, _ in batch):
            _raise()
        return cloud(self, batch)

    async def answering(self: Answering, request: Any, *rest: Any) -> Any:
        if request.parameters.seed == EDGE:
            asyncio.get_running_loop().create_task(_fail())
            threading.Thread(target=_raise).start()
            _Unraisable()
            warnings.warn(os.environ[WORDS], UserWarning, stacklevel=1)
            for name in ("httpx", "httpcore", "urllib3", "redis", "websockets", "uvicorn.error"):
                logging.getLogger(name).debug(os.environ[WORDS])
        return await answer(self, request, *rest)

    setattr(EdgeEngine, "step", edge_step)  # noqa: B010
    setattr(CloudEngine, "step", cloud_step)  # noqa: B010
    setattr(Answering, "answer", answering)  # noqa: B010


if __name__ == "__main__":
    _patch()

    importlib.import_module(f"services.{sys.argv[1]}.main").main()
