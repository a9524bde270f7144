"""The picture of a request: what was noted comes out in the lane it belongs to."""

from pathlib import Path

import pytest

from benchmarks import notes
from benchmarks.client import Stream
from benchmarks.network.proxy import Crossing
from benchmarks.paced.model import Ran
from benchmarks.timeline.__main__ import _deployment
from benchmarks.timeline.lanes import Burst, Message, Span, lanes
from benchmarks.timeline.picture import picture
from benchmarks.timeline.record import Recording
from cli.errors import CommandError

EDGE = [
    Ran(10.010, 10.030, 5, 0, 6, begins=True, tapped=True),
    Ran(10.030, 10.040, 2, 6, 6, begins=False, tapped=False),
    Ran(10.0405, 10.060, 1, 0, 6, begins=True, tapped=True),
]
CLOUD = [
    Ran(10.100, 10.120, 4, 3, 12, begins=True, tapped=False),
    Ran(10.120, 10.125, 3, 12, 12, begins=False, tapped=False),
    # What the cloud lacks below the split first, then on by itself.
    Ran(10.130, 10.140, 4, 0, 3, begins=True, tapped=False),
    Ran(10.140, 10.170, 1, 0, 12, begins=True, tapped=True),
    Ran(10.170, 10.175, 1, 12, 12, begins=False, tapped=False),
]
CROSSINGS = [
    Crossing("up", 1, 300, 10.040, 10.041, 10.066, "POST /v1/complete HTTP/1.1"),
    Crossing("up", 1, 9000, 10.041, 10.044, 10.069, "\x82"),
    Crossing("up", 2, 150, 10.050, 10.0501, 10.075, "GET /v1/manifest HTTP/1.1"),
    Crossing("down", 2, 400, 10.080, 10.0801, 10.105, "HTTP/1.1 200 OK"),
    Crossing("down", 1, 500, 10.126, 10.1261, 10.151, "HTTP/1.1 200 OK"),
    Crossing("down", 1, 100, 10.1262, 10.1263, 10.1513, "more of it"),
    Crossing("down", 1, 200, 10.176, 10.1761, 10.2011, "what is streamed after"),
]
STREAM = Stream(
    events=[
        {},
        {},
        {"details": {"tokens": [{"source": s} for s in ("draft", "cloud", "cloud")]}},
    ],
    arrivals=[10.1520, 10.1521, 10.2020],
    began=10.0,
    bytes_up=0,
    bytes_down=0,
)
RECORDING = Recording(STREAM, 3, EDGE, CLOUD, CROSSINGS)


def test_calls_of_a_step_are_one_span_and_run_ahead_is_apart() -> None:
    found = lanes(RECORDING)
    assert _rounded(found.steps) == [(10, 40, 5), (40.5, 60, 1)]
    assert _rounded(found.passes) == [(100, 125, 4)]
    assert _rounded(found.alone) == [(130, 175, 4)]
    assert found.total == pytest.approx(202)


def test_where_no_states_travel_every_pass_is_a_pass() -> None:
    found = lanes(Recording(STREAM, 0, [], CLOUD, []))
    assert not found.alone
    assert _rounded(found.passes) == [(100, 125, 4), (130, 175, 4)]


def test_a_step_that_had_to_leave_the_device_to_another_is_drawn_in_parts() -> None:
    late = Ran(10.060, 10.065, 2, 6, 6, begins=False, tapped=False)
    found = lanes(Recording(STREAM, 3, [EDGE[0], late], [], []))
    assert _rounded(found.steps) == [(10, 30, 5), (60, 65, 2)]


def test_waits_are_what_no_step_covers() -> None:
    # Half a millisecond between two steps is none.
    assert _rounded(lanes(RECORDING).waits) == [(0, 10, 0), (60, 202, 0)]


def test_a_request_is_all_that_goes_up_before_its_answer() -> None:
    (up,) = lanes(RECORDING).up
    assert _moments(up) == [40, 44, 65, 69]
    assert up.size == 9300


def test_answers_streamed_apart_are_apart_and_looks_at_the_cloud_are_left_out() -> None:
    answer, streamed = lanes(RECORDING).down
    assert (answer.size, streamed.size) == (600, 200)
    assert _moments(streamed) == [176, 176.1, 201, 201.1]


def test_a_connection_may_carry_a_look_and_then_a_request() -> None:
    late = Crossing("up", 2, 700, 10.110, 10.111, 10.136, "POST /v1/blocks HTTP/1.1")
    # Its request went up before there was this one to draw.
    older = Crossing("down", 3, 60, 10.010, 10.011, 10.036, "HTTP/1.1 200 OK")
    found = lanes(Recording(STREAM, 3, EDGE, CLOUD, [*CROSSINGS, late, older]))
    assert sorted(message.size for message in found.up) == [700, 9300]
    assert sorted(message.size for message in found.down) == [200, 600]


def test_tokens_at_once_are_a_burst() -> None:
    assert [(round(b.at), tuple(b.sources)) for b in lanes(RECORDING).bursts] == [
        (152, ("draft", "cloud")),
        (202, ("cloud",)),
    ]
    assert isinstance(lanes(RECORDING).bursts[0], Burst)


def test_a_picture_shows_every_lane(tmp_path: Path) -> None:
    figure = picture(lanes(RECORDING), "a title", "an account")
    (panel,) = figure.axes
    # Two steps, a pass, a run-ahead and two waits; one request and two answers.
    assert len(panel.patches) == 6 + 3
    figure.savefig(tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_notes_are_read_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    book = notes.Notes(path)
    book.add(rows=3, kind="up")
    assert notes.read(path) == [{"rows": 3, "kind": "up"}]
    with path.open("a") as file:
        file.write('{"rows":')
    assert len(notes.read(path)) == 1


def test_a_deployment_is_taken_by_name_or_put_together() -> None:
    parts = {"mode": "verified", "verify": "ids", "cut": "half"}
    made = _deployment(None, **parts, settings=["draft_ahead=4"])
    assert made.parameters == {"mode": "verified", "verify": "ids"}
    assert made.edge == "half-draft_ahead=4"
    named = _deployment("self-speculation", **parts, settings=["draft_longest=2"])
    assert named.in_cloud
    assert named.settings["draft_longest"] == "2"
    for wrong, cut in (("nobody", "half"), (None, "third"), ("CE-CoLLM 49.6%", "half")):
        with pytest.raises(CommandError):
            _deployment(wrong, mode="verified", verify=None, cut=cut, settings=[])


def _rounded(spans: object) -> list[tuple[float, float, int]]:
    assert isinstance(spans, list)
    assert all(isinstance(each, Span) for each in spans)
    return [(round(s.began, 3), round(s.ended, 3), s.rows) for s in spans]


def _moments(message: Message) -> list[float]:
    return [round(m, 3) for m in (message.sent, message.left, message.first, message.last)]
