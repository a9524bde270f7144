"""Runs an application as a process's only work: until SIGTERM or SIGINT, then a graceful end with
exit code 0.
"""

import signal
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI


def serve(app: FastAPI, *, host: str, port: int, grace_seconds: int) -> None:
    """Serve until told to stop; requests under way get `grace_seconds` to end."""
    # The server raises the signal that stopped it once more when everything is shut down; the
    # default answer to that would be to die of it.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _leave)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=grace_seconds,
    )


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    sys.exit(0)
