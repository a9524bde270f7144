"""What an overload says of itself: its sums, and that a counter which is off is found out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.overload import account
from cli.load.requests import UNFINISHED, Seen

BEFORE = """
tandem_request_success_total{finished_reason="length"} 4.0
tandem_request_failures_total{reason="limited"} 1.0
tandem_request_failures_total{reason="overloaded"} 0.0
tandem_request_failures_total{reason="cancelled"} 2.0
"""
AFTER = """
tandem_request_success_total{finished_reason="length"} 5.0
tandem_request_success_total{finished_reason="eos_token"} 1.0
tandem_request_failures_total{reason="limited"} 2.0
tandem_request_failures_total{reason="overloaded"} 3.0
tandem_request_failures_total{reason="cancelled"} 3.0
"""


def _seen(error: str | None, *times: float) -> Seen:
    return Seen(
        "e", "m", 0.0, token_times=list(times), ended=times[-1] if times else 1.0, error=error
    )


def _told() -> tuple[list[Seen], account.Replies]:
    replies = account.Replies()
    for status, retry_after in ((200, None), (429, "7"), (503, "2"), (503, "1"), (503, "30")):
        replies.note(status, retry_after)
    errors = (None, None, "http_429", "http_503", "http_503", "http_503", UNFINISHED)
    return [_seen(error, 1.0, 2.0) for error in errors], replies


def test_what_clients_saw_is_what_was_counted() -> None:
    seen, replies = _told()
    assert account.mismatches(seen, replies, BEFORE, AFTER) == []
    assert (replies.without_retry_after, sorted(replies.retry_after)) == (0, [1, 2, 7, 30])


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (AFTER.replace('"overloaded"} 3', '"overloaded"} 4'), "answers with 503: clients saw 3"),
        (AFTER.replace('"limited"} 2', '"limited"} 1'), "answers with 429: clients saw 1"),
        (AFTER.replace('"length"} 5', '"length"} 6'), "came whole: clients saw 2"),
        (AFTER.replace('"cancelled"} 3', '"cancelled"} 2'), "clients that left"),
        (
            AFTER + 'tandem_request_failures_total{reason="internal"} 1.0\n',
            'counted 1 of {reason="internal"}',
        ),
    ],
)
def test_a_counter_that_is_off_is_found_out(wrong: str, found: str) -> None:
    seen, replies = _told()
    (said,) = account.mismatches(seen, replies, BEFORE, wrong)
    assert found in said


def test_a_refusal_that_does_not_say_when_to_come_back_is_counted() -> None:
    replies = account.Replies()
    for said in (None, "", "soon", "0", "1.5"):
        replies.note(503, said)
    replies.note(200, None)
    assert (replies.without_retry_after, replies.retry_after) == (5, [])


def test_only_tokens_of_whole_answers_that_came_in_time_are_good() -> None:
    seen = [_seen(None, 1.0, 2.0, 3.5), _seen("stream_overloaded", 1.0), _seen(None, 9.0)]
    assert account.done_within(seen, started=0.0, window=3.0) == 2
    assert account.accepted(seen)["p95_seconds"] == 9.0


@pytest.mark.timeout(900)
def test_under_several_times_its_capacity_an_edge_serves_on_and_turns_the_rest_away(
    tmp_path: Path,
) -> None:
    out = tmp_path / "overload.json"
    asked = ("--seconds", "5", "--capacity-seconds", "4", "--new-tokens", "8", "--per-minute", "3")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overload", *asked, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(out.read_text())
    assert set(told["statuses"]) == {"200", "429", "503"}
    assert (told["without_retry_after"], told["mismatches"], told["broke_off"]) == (0, [], [])
    # Five seconds, of which a busy machine may stand still for some: what a minute of quiet shows
    # is in benchmarks/results.
    assert told["goodput_over_peak"] > 0.25
