"""Logs: one JSON object a line, whatever is logged."""

import asyncio
import gc
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from shared import logs


@pytest.fixture
def _own_root() -> Iterator[None]:
    """`configure` takes the root logger and Python's hooks over; they are given back."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning
    yield
    root.handlers[:] = kept
    root.setLevel(level)
    sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning = hooks


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.usefixtures("_own_root")
def test_every_record_is_one_line_of_json_with_its_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info")
    log = logging.getLogger("shared.test")
    log.info("first\nsecond %s", "third", extra={"tokens": {"cloud": 2}, "odd": object()})
    log.debug("not this")
    try:
        raise ValueError("a\nb")
    except ValueError:
        log.exception("broke")
    first, broke = lines(capsys)
    assert first["message"] == "first\nsecond third"
    assert (first["level"], first["logger"]) == ("info", "shared.test")
    assert first["tokens"] == {"cloud": 2}
    assert broke["exception"].splitlines()[-1] == "ValueError"
    assert "test_logs.py" in broke["exception"]
    assert "request_id" not in first


@pytest.mark.usefixtures("_own_root")
def test_within_a_request_its_id_is_on_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    token = logs.request_id.set("r-1")
    logging.getLogger("shared.test").warning("within")
    logs.request_id.reset(token)
    assert lines(capsys)[0]["request_id"] == "r-1"


@pytest.mark.usefixtures("_own_root")
def test_the_servers_message_for_terminals_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    logging.getLogger("uvicorn.error").info("up", extra={"color_message": "\x1b[36mup"})
    assert lines(capsys)[0].keys() == {"time", "level", "logger", "message"}


SECRET = "marmalade-zeppelin"


def _fails() -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ExceptionGroup(SECRET, [ValueError(SECRET)]) from error
    except ExceptionGroup as error:
        error.add_note(SECRET)
        raise ConnectionRefusedError(111, SECRET, SECRET) from error


@pytest.mark.usefixtures("_own_root")
def test_of_an_exception_kinds_and_lines_are_told_and_no_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("DEBUG")
    try:
        _fails()
    except OSError:
        logging.getLogger("uvicorn.error").exception("broke")
    said = capsys.readouterr().err
    assert SECRET not in said
    kinds = [line for line in json.loads(said)["exception"].splitlines() if line[0] != " "]
    assert [line for line in kinds if "Traceback" not in line] == [
        "KeyError",
        "ValueError",
        "ExceptionGroup",
        "ConnectionRefusedError: Connection refused",
    ]


@pytest.mark.usefixtures("_own_root")
@pytest.mark.parametrize(
    "name", ["httpcore.http11", "urllib3", "redis", "asyncio", "uvicorn.error"]
)
def test_libraries_are_not_heard_below_a_warning(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("DEBUG")
    logging.getLogger(name).debug("authorization: Bearer %s", SECRET)
    logging.getLogger("services.edge").debug("ours")
    assert [line["message"] for line in lines(capsys)] == ["ours"]


@pytest.mark.usefixtures("_own_root")
async def test_a_task_nobody_awaited_says_nothing_of_its_exception(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("DEBUG")

    async def fail() -> None:
        raise ValueError(SECRET)

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    del task
    gc.collect()
    said = capsys.readouterr().err
    assert "Task exception was never retrieved" in said
    assert SECRET not in said


@pytest.mark.usefixtures("_own_root")
def test_what_python_says_by_itself_is_logged_without_its_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("INFO")
    error = ValueError(SECRET)
    sys.excepthook(ValueError, error, None)
    threading.excepthook(threading.ExceptHookArgs((ValueError, error, None, None)))
    warnings.showwarning(UserWarning(SECRET), UserWarning, "there.py", 3)
    said = capsys.readouterr().err
    assert SECRET not in said
    told = [json.loads(line) for line in said.splitlines()]
    assert [line["level"] for line in told] == ["critical", "critical", "warning"]
    assert (told[2]["kind"], told[2]["at"]) == ("UserWarning", "there.py:3")


@pytest.mark.usefixtures("_own_root")
def test_a_thing_in_a_line_is_told_by_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    logging.getLogger("shared.test").info("odd", extra={"thing": ValueError(SECRET)})
    assert lines(capsys)[0]["thing"] == "ValueError"
