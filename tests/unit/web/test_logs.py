"""Logs: one JSON object a line, whatever is logged."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from shared import logs


@pytest.fixture
def _own_root() -> Iterator[None]:
    """`configure` takes the root logger over; it is given back."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    yield
    root.handlers[:] = kept
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.usefixtures("_own_root")
def test_every_record_is_one_line_of_json_with_its_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info")
    log = logging.getLogger("tandem.test")
    log.info("first\nsecond %s", "third", extra={"tokens": {"cloud": 2}, "odd": object()})
    log.debug("not this")
    try:
        raise ValueError("a\nb")
    except ValueError:
        log.exception("broke")
    first, broke = lines(capsys)
    assert first["message"] == "first\nsecond third"
    assert (first["level"], first["logger"]) == ("info", "tandem.test")
    assert first["tokens"] == {"cloud": 2}
    assert "ValueError: a\nb" in broke["exception"]
    assert "request_id" not in first


@pytest.mark.usefixtures("_own_root")
def test_within_a_request_its_id_is_on_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    token = logs.request_id.set("r-1")
    logging.getLogger("tandem.test").warning("within")
    logs.request_id.reset(token)
    assert lines(capsys)[0]["request_id"] == "r-1"


@pytest.mark.usefixtures("_own_root")
def test_the_servers_message_for_terminals_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    logging.getLogger("uvicorn.error").info("up", extra={"color_message": "\x1b[36mup"})
    assert lines(capsys)[0].keys() == {"time", "level", "logger", "message"}
