"""Structured logs: one JSON object a line on standard error, with the ids of request and trace
where there are any.

Knows nothing of requests; the web middleware sets `request_id`. Prompt text and tokens are never
logged. What others' code says may quote them, so of an exception its kinds and lines of code are
logged and not its message; of a library its warnings alone, whatever the level.
"""

import json
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import TextIO

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)

# `color_message` is uvicorn's own, the message once more for a terminal.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


# Loggers of this project; all others are libraries'.
_OURS = frozenset({"services", "shared", "cli", "benchmarks", "__main__"})
# Its lines tell when the server started and ended. At DEBUG it logs headers, keys among them.
_SERVER = "uvicorn"
# Their errors quote headers as they were sent, addresses with passwords, or whole tasks.
_SILENT = ("httpx", "httpcore", "opentelemetry")

_log = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Renders a record as one JSON line; values given through `extra=` become fields of their
    own.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if (rid := request_id.get()) is not None:
            line["request_id"] = rid
        if (trace := trace_id.get()) is not None:
            line["trace_id"] = trace
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            line["exception"] = "".join(_told(record.exc_info[1], set()))
        return json.dumps(line, default=_kind)


def _message(record: logging.LogRecord) -> str:
    """What a record says; asyncio's name in their first line what happened, and then show tasks and
    exceptions as they are.
    """
    message = record.getMessage()
    return message.partition("\n")[0] if record.name == "asyncio" else message


def _told(error: BaseException | None, seen: set[int]) -> Iterator[str]:
    """An exception with those that led to it: lines of code and kinds, no messages."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    yield from _told(before, seen)
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _told(each, seen)
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    # The system's words for an error of its own quote nothing.
    why = f": {os.strerror(error.errno)}" if isinstance(error, OSError) and error.errno else ""
    yield f"{_kind(error)}{why}\n"


def _kind(value: object) -> str:
    """What sort of thing this is, where what it holds is not to be shown."""
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


class _Worth(logging.Filter):
    """Lets pass what this project says; of libraries, warnings."""

    def filter(self, record: logging.LogRecord) -> bool:
        name = record.name.partition(".")[0]
        if name in _OURS:
            return True
        if name in _SILENT:
            return False
        return record.levelno >= (logging.INFO if name == _SERVER else logging.WARNING)


def configure(level: str) -> None:
    """Send every log of the process to standard error as JSON lines; `level` is a name such as
    "INFO". What Python would say there by itself is logged as well.
    """
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(JsonFormatter())
    out.addFilter(_Worth())
    logging.basicConfig(level=level.upper(), handlers=[out], force=True)
    sys.excepthook = _on_end
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_end
    warnings.showwarning = _on_warning


def _on_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log.critical("ended by an error", exc_info=(kind, error, trace))


def _on_thread_end(ended: threading.ExceptHookArgs) -> None:
    _log.critical("a thread was ended by an error", exc_info=ended.exc_value)


def _on_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    _log.error("an error nobody could be told of", exc_info=unraisable.exc_value)


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del message, file, line  # a library's warnings may quote what they are about
    _log.warning("a warning", extra={"kind": category.__name__, "at": f"{filename}:{lineno}"})
