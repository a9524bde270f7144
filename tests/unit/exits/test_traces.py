"""Traces come back as they were written, and what is no trace is named by file, line and reason."""

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.exits.traces import (
    BadTrace,
    ExitTrace,
    Trace,
    parse_trace,
    read_traces,
    trace_line,
    write_traces,
)

_SHARES = st.floats(0, 1)
_NATS = st.floats(0, 20)
_SAID = st.none() | st.tuples(st.integers(0, 4095), _SHARES, _NATS, _SHARES, _NATS)


@st.composite
def _traces(draw: st.DrawFn) -> Trace:
    places = draw(st.integers(0, 6))
    layers = sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=3)))
    exits = {}
    for layer in layers:
        said = [draw(_SAID) or (None,) * 5 for _ in range(places)]
        columns = list(zip(*said, strict=True)) or [()] * 5
        names = ("token", "top", "entropy", "margin", "sharp")
        exits[layer] = ExitTrace(**dict(zip(names, columns, strict=True)))
    return Trace(
        model_fingerprint="ab",
        document=draw(st.text(max_size=5)),
        source="dialogue",
        kind=draw(st.sampled_from(["greedy", "sampled"])),
        whole=tuple(draw(st.none() | st.integers(0, 4095)) for _ in range(places)),
        exits=exits,
        exits_sha256=draw(st.none() | st.just("cd")),
    )


@given(_traces())
def test_a_line_read_is_the_trace_written(trace: Trace) -> None:
    line = trace_line(trace)
    assert "\n" not in line
    assert parse_trace(line) == trace


@pytest.mark.parametrize("name", ["some.jsonl", "some.jsonl.xz"])
def test_a_file_read_is_the_traces_written_in_order(tmp_path: Path, name: str) -> None:
    traces = [_trace(document=f"a-{n}") for n in range(3)]
    assert write_traces(tmp_path / name, iter(traces)) == 3
    assert list(read_traces(tmp_path / name)) == traces


def test_the_form_on_disk_is_fixed(tmp_path: Path) -> None:
    """Readers elsewhere rely on these names; a change of them is a new format."""
    said = {"token": [5, None], "top": [0.5, None], "entropy": [1.5, None]}
    said |= {"margin": [0.25, None], "sharp": [0.75, None]}
    expected = {
        "format": 2,
        "model_fingerprint": "ab",
        "exits_sha256": None,
        "document": "a-0",
        "source": "a",
        "kind": "greedy",
        "exits": [3],
        "whole": [5, None],
        "exit": {"3": said},
    }
    write_traces(tmp_path / "t.jsonl", [_trace()])
    assert json.loads((tmp_path / "t.jsonl").read_text()) == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 1}, "format 2"),
        ({"exits_sha256": 7}, "exits_sha256"),
        ({"kind": "beam"}, "beam"),
        ({"extra": 1}, "extra"),
        ({"whole": [1]}, "exit 3 spoke at 2 places of 1"),
        ({"whole": [1, -1]}, "whole 1 is -1"),
        ({"whole": [1, True]}, "whole 1 is True"),
        ({"exits": [6]}, "[6]"),
        ({"document": 7}, "document"),
        ({"exits": [], "exit": {}}, "rising"),
    ],
)
def test_another_form_is_refused_and_named(change: dict[str, Any], told: str) -> None:
    content = json.loads(trace_line(_trace())) | change
    with pytest.raises(BadTrace) as refused:
        parse_trace(json.dumps(content))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("top", [1.5, None], "top 0 is 1.5, out of range"),
        ("top", [0.5, 0.5], "in part at place 1"),
        ("entropy", [-1, None], "entropy 0 is -1, out of range"),
        ("margin", [float("nan"), None], "NaN"),
        ("sharp", ["0", None], "sharp 0"),
        ("token", [1], "long"),
        ("token", [1.5, None], "token 0 is 1.5"),
    ],
)
def test_what_an_exit_cannot_have_said_is_refused(name: str, values: list[Any], told: str) -> None:
    content = json.loads(trace_line(_trace()))
    content["exit"]["3"][name] = values
    with pytest.raises(BadTrace) as refused:
        parse_trace(json.dumps(content))
    assert told in str(refused.value)


def test_the_file_and_the_line_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f"{trace_line(_trace())}\n{{\n")
    with pytest.raises(BadTrace, match=r"t\.jsonl, line 2: no JSON"):
        list(read_traces(path))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.xz"
    write_traces(path, [_trace(document=f"a-{n}") for n in range(50)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadTrace, match=r"t\.jsonl\.xz"):
        list(read_traces(path))
    path.write_bytes(lzma.compress(b"\xff\n"))
    with pytest.raises(BadTrace, match=r"t\.jsonl\.xz"):
        list(read_traces(path))


def _trace(**changes: Any) -> Trace:
    said = ExitTrace(
        token=(5, None),
        top=(0.5, None),
        entropy=(1.5, None),
        margin=(0.25, None),
        sharp=(0.75, None),
    )
    fields: dict[str, Any] = {
        "model_fingerprint": "ab",
        "document": "a-0",
        "source": "a",
        "kind": "greedy",
        "whole": (5, None),
        "exits": {3: said},
    }
    return Trace(**fields | changes)
