"""SIGTERM and SIGINT while a process starts: it ends at once, with exit code 0.

Process 1 of a container does not even hear a signal it has no answer to, and importing torch and
loading a model take long. Imports nothing that takes time, so that it can come first.
"""

import os
import signal
from types import FrameType


def leave_when_told() -> None:
    """End the process at SIGTERM or SIGINT, until who serves answers them otherwise."""
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    # There is nothing to end gracefully yet, and an exception would come up in the middle of
    # somebody's import, where libraries turn it into errors of their own.
    os._exit(0)
