"""The report's tables, on made-up rows: every figure in its place, and rows that cannot be shown
refused.
"""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rows as files
from benchmarks.report import grid, tables
from benchmarks.report.paper_table import CLOUD, PUBLISHED
from benchmarks.rows import CellKey, Row
from cli.errors import CommandError
from tests.support.benchmark_rows import column_of, lines_of, row

PAPER_CELL = CellKey("paced", 3.0, 30.0, None)
LOOPBACK = CellKey("real", 0.0, None, None)


def test_ratios_are_to_cloud_only_on_the_same_network_and_a_token() -> None:
    found = [
        row(total_s=2.0, total_s_low=1.9, total_s_high=2.2, repeats=2),
        # Twice the tokens in three times the time.
        row(deployment="x", tokens=120, total_s=6.0, total_s_low=5.0, total_s_high=8.0, repeats=3),
        row(rtt_ms=50.0, total_s=4.0),
        row(rtt_ms=50.0, deployment="x", total_s=1.0),
        row(rtt_ms=50.0, mbit=5.0, deployment="x", total_s=400.0),
    ]
    lines = lines_of(tables.ratios(found, "paced", 30.0))
    assert lines["total over cloud-only's"] == ["3 ms", "50 ms"]
    assert lines["cloud-only"] == ["2.00 s (1.90 to 2.20)", "4.00 s"]
    assert lines["x"] == ["1.50 (1.25 to 2.00)", "**0.25**"]


def test_what_was_not_measured_is_blank_and_without_a_baseline_seconds_are_told() -> None:
    found = [row(), row(rtt_ms=50.0), row(deployment="x"), row(deployment="x", rtt_ms=100.0)]
    lines = lines_of(tables.ratios(found, "paced", 30.0))
    assert lines["cloud-only"][2] == tables.NONE
    assert lines["x"][1:] == [tables.NONE, "2.00 s"]


def test_no_limit_has_loopback_and_round_trips_in_steps_and_no_peers() -> None:
    found = [
        row(setup="real", rtt_ms=12.3456, mbit=None, rtt_steps=1.35),
        row(setup="real", rtt_ms=0.0, mbit=None),
        row(setup="real", rtt_ms=0.0, mbit=None, deployment="llama.cpp cloud", peer=True),
    ]
    text = tables.ratios(found, "real", None)
    assert lines_of(text)["total over cloud-only's"] == ["loopback", "1.35 steps (12.3 ms)"]
    assert "llama.cpp" not in text


TIMES = {
    "total s": "3.00",
    "over cloud-only": "1.50",
    "edge s": "0.51",
    "cloud s": "1.21",
    "network s": "0.31",
    "first token ms": "123",
    "between tokens, p50 ms": "31.5",
    "p95 ms": "52.5",
}
TRAFFIC = {
    "requests/token": "0.250",
    "offloaded": "24.0%",
    "bytes up/token": "1,100",
    "bytes down/token": "120",
    "wire up/token": "1,500",
    "wire down/token": "170",
    "agreement": "97.5%",
    "identical": "1 of 2",
    "ROUGE-L": "0.912",
}


@pytest.mark.parametrize(("head", "shown"), [*TIMES.items(), *TRAFFIC.items()])
def test_a_network_in_full_has_every_figure(head: str, shown: str) -> None:
    told = row(
        deployment="x", total_s=3.0, edge_s=0.51, cloud_s=1.21, network_s=0.31, ttft_s=0.1234,
        itl_p50_s=0.0315, itl_p95_s=0.0525, cloud_requests=15, offloaded=0.24, bytes_up=66_000,
        bytes_down=7200, wire_up=90_000, wire_down=10_200, agreement=0.975, identical=0.5,
        rouge_l=0.912,
    )  # fmt: skip
    show = tables.times if head in TIMES else tables.traffic
    text = show([row(), told, row(deployment="x", rtt_ms=50.0)], PAPER_CELL)
    assert list(lines_of(text)) == ["", "---", "cloud-only", "x"]
    assert column_of(text, "x", head) == shown


def test_peers_stand_beside_cloud_only_without_a_network() -> None:
    at = {"setup": "real", "rtt_ms": 0.0, "mbit": None}
    peer = row(**at, deployment="llama.cpp cloud", peer=True, total_s=0.5)
    ours = [row(**at), row(**at, deployment="standalone"), row(**at, deployment="fair split")]
    elsewhere = row(setup="real", rtt_ms=50.0, mbit=30.0, total_s=77.0)
    text = tables.peers([*ours, elsewhere, peer])
    assert list(lines_of(text)) == ["", "---", "cloud-only", "standalone", "llama.cpp cloud"]
    assert column_of(text, "llama.cpp cloud", "over cloud-only") == "0.25"
    assert "network s" not in lines_of(text)[""]
    assert "77" not in text
    assert "llama.cpp" not in tables.traffic([*ours, peer], LOOPBACK)
    assert column_of(tables.times([*ours, peer], LOOPBACK), "llama.cpp cloud", "network s") == "–"
    assert tables.peers(ours) == ""


def test_the_papers_figures_stand_above_ours_scaled_to_its_tokens() -> None:
    ours = [
        row(total_s=3.0, cloud_requests=2, offloaded=1.0),
        row(
            deployment="CE-CoLLM 0.8", total_s=6.0, cloud_s=0.6, edge_s=1.2, network_s=0.3,
            bytes_up=61_440, cloud_requests=15, offloaded=0.9,
        ),
        row(deployment="CE-CoLLM 49.6%", setup="real", total_s=9.0),
    ]  # fmt: skip
    lines = lines_of(tables.beside_the_paper(ours))
    assert lines["CE-CoLLM collaborative, 0.8"] == [
        "paper", "319.06", "0.862", "112.72", "192.20", "14.13", "956.62", "0.496",
    ]  # fmt: skip
    # 60 tokens stand for 10,000; 1,024 bytes a token are 100 KB a response of a hundred.
    assert lines["CE-CoLLM 0.8"] == [
        "ours", "1000.00", "2.000", "100.00", "200.00", "50.00", "100.00", "0.250",
    ]  # fmt: skip
    # A streamed answer is one request: tokens are counted, as the paper does.
    assert lines["cloud-only"][-1] == "1.000"
    assert lines["CE-CoLLM 49.6%"] == ["ours", *[tables.NONE] * 7]
    assert lines["Cloud LLM"][6] == tables.NONE
    assert tables.beside_the_paper([row(rtt_ms=50.0)]) == ""


def test_the_published_parts_add_up_and_give_the_abstracts_saving() -> None:
    for line in PUBLISHED:
        parts = line.cloud_s + line.edge_s + line.network_s
        assert parts == pytest.approx(line.total_s, abs=0.02)
    collaborative = PUBLISHED[-1]
    assert f"{1 - collaborative.total_s / CLOUD.total_s:.2%}" == "13.81%"
    # Every one of 19.58 + 100 positions travels once: 4096 values of two bytes.
    assert collaborative.kb_per_response == pytest.approx(8 * 119.58, rel=1e-3)


def test_networks_stand_as_asked_and_as_measured() -> None:
    found = [
        row(deployment="x", rtt_measured_ms=None),
        row(rtt_measured_ms=3.21, mbit_up_measured=29.7, mbit_down_measured=None),
        row(setup="real", rtt_ms=0.0, mbit=None, rtt_measured_ms=0.11, mbit_up_measured=2100.4),
    ]
    text = tables.calibration(found)
    told = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert told == [
        ["paced", "3 ms, 30 Mbit/s", "3.21", "+0.21 ms", "29.7 (-1.0%)", tables.NONE],
        ["real", "loopback", "0.11", tables.NONE, "2,100", "30"],
    ]
    assert tables.calibration(found[:1]) == ""


def test_a_name_cannot_break_its_table() -> None:
    text = tables.table([["", "a"], ["one | two\nthree", "1"]])
    assert text.splitlines()[2] == "| one \\| two three | 1 |"


def test_telling_networks_are_the_papers_bandwidth_or_round_trips_in_steps() -> None:
    paced = [row(rtt_ms=rtt, mbit=mbit) for rtt in (100.0, 3.0, 10.0) for mbit in (5.0, 30.0)]
    assert [cell[1:3] for cell in grid.telling(paced, "paced")] == [(3.0, 30.0), (100.0, 30.0)]
    real = [row(setup="real", rtt_ms=0.0, mbit=None), row(setup="real")]
    steps = [0.08, 0.5, 1.35, 2.7]
    real += [row(setup="real", rtt_ms=8 * s, mbit=None, rtt_steps=s) for s in steps]
    assert [cell[3] for cell in grid.telling(real, "real")] == [None, 0.5, 1.35, 2.7]
    assert [cell[1] for cell in grid.telling([row(mbit=5.0, rtt_ms=7.0)], "paced")] == [7.0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"total_s": "fast"}, "row 2: total_s cannot be 'fast'"),
        ({"total_s": math.nan}, "row 2: total_s cannot be nan"),
        ({"total_s": 0.0}, "row 2: total_s is 0.0"),
        ({"tokens": 0}, "row 2: tokens is 0"),
        ({"peer": 1}, "row 2: peer cannot be 1"),
        ({"edge_s": None}, "row 2: edge_s cannot be None"),
        ({"agreement": True}, "row 2: agreement cannot be True"),
        ({"deployment": ["x"]}, "row 2: deployment cannot be"),
        ({"deployment": "cloud-only"}, "row 2: cloud-only is there twice, paced, 3 ms, 30 Mbit/s"),
    ],
)
def test_rows_that_cannot_be_shown_are_refused_by_number(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    told = [row().to_json(), {**row(deployment="x").to_json(), **change}]
    (tmp_path / "rows.json").write_text(json.dumps(told))
    with pytest.raises(CommandError, match=r"rows\.json") as refused:
        grid.read(tmp_path / "rows.json")
    assert named in str(refused.value)


def test_whole_numbers_are_figures_too_and_no_rows_are_not() -> None:
    grid.check([replace(row(), rtt_ms=3, mbit=None, cloud_requests=30.5)])  # type: ignore[arg-type]
    with pytest.raises(CommandError, match="no rows"):
        grid.check([])


def test_a_row_has_the_keys_agreed_on_and_no_others(tmp_path: Path) -> None:
    names = [field.name for field in fields(Row)]
    assert len(names) == len(set(names)) == 48
    told = row().to_json()
    assert list(told) == names
    for name in names[:34]:
        with pytest.raises(CommandError, match=rf"lacks {name}$"):
            Row.from_json({key: value for key, value in told.items() if key != name})
    with pytest.raises(CommandError, match="speed, vigour"):
        Row.from_json({**told, "vigour": 1, "speed": 2})
    files.save(tmp_path / "rows.json", [row()])
    assert grid.read(tmp_path / "rows.json") == [row()]


def test_older_rows_know_nothing_of_drafts_and_pauses() -> None:
    older = dict(list(row(drafted_tokens=3, pause_p95_s=0.1).to_json().items())[:34])
    found = Row.from_json(older)
    assert (found.drafted_tokens, found.near_ties, found.waiting_s) == (0, 0, 0.0)
    assert found.pause_p95_s is None
    assert (found.temperature, found.top_p, found.seed) == (0.0, 1.0, None)
    assert (found.ratio_paired, found.ratio_low, found.ratio_high) == (None, None, None)
    cell = found.cell
    assert "pauses" not in tables.times([found], cell)
    assert tables.drafts([found], cell) == ""


def test_pauses_and_drafts_are_shown_where_there_are_some() -> None:
    found = [
        row(),
        row(
            deployment="verified",
            pause_p50_s=0.04,
            pause_p95_s=0.125,
            drafted_tokens=80,
            accepted_tokens=40,
            cloud_passes=15,
            round_trips=6,
            waiting_s=0.25,
            near_ties=1,
        ),
    ]
    times, drafts = tables.times(found, PAPER_CELL), tables.drafts(found, PAPER_CELL)
    assert column_of(times, "verified", "pauses, p50 ms") == "40.0"
    assert column_of(times, "verified", "pauses, p95 ms") == "125.0"
    assert column_of(times, "cloud-only", "pauses, p95 ms") == tables.NONE
    assert list(lines_of(drafts)) == ["", "---", "verified"]
    assert lines_of(drafts)["verified"] == ["80", "50.0%", "66.7%", "0.250", "0.100", "0.25", "1"]


def test_the_price_list_stands_beside_what_it_was_fitted_to() -> None:
    text = tables.unit_costs({"naive cloud": (22.42, 25.34)})
    assert "| naive cloud | 22.42 | 25.34 | -11.5% |" in text
    assert tables.unit_costs({}) == ""
