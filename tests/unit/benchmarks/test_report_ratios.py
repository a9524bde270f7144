"""The report's tables on what is held against cloud-only, and on what a reader sees between tokens:
spreads stand where they were measured, and only what was sampled alike is compared.
"""

import pytest

from benchmarks.report import grid, tables
from benchmarks.rows import CellKey
from cli.errors import CommandError
from tests.support.benchmark_rows import column_of, lines_of, row

PAPER_CELL = CellKey("paced", 3.0, 30.0, None)


def test_a_ratio_has_the_spread_of_its_prompts_where_they_were_paired() -> None:
    told = {"ratio_paired": 0.7, "ratio_low": 0.5, "ratio_high": 1.25}
    found = [
        row(repeats=2, ratio_paired=1.0, ratio_low=1.0, ratio_high=1.0),
        row(deployment="x", total_s=1.5, total_s_low=1.4, total_s_high=1.6, repeats=2, **told),
        row(deployment="older", total_s=3.0),
    ]
    lines = lines_of(tables.ratios(found, "paced", 30.0))
    assert lines["cloud-only"] == ["2.00 s (1.90 to 2.20)"]
    assert lines["x"] == ["**0.75** (0.50 to 1.25)"]
    times = tables.times(found, PAPER_CELL)
    assert column_of(times, "x", "over cloud-only") == "0.75"
    assert column_of(times, "x", "paired") == "0.70 (0.50 to 1.25)"
    assert column_of(times, "older", "paired") == tables.NONE
    assert "paired" not in tables.times(found[2:], PAPER_CELL)


def test_gaps_and_pauses_stand_for_every_round_trip() -> None:
    told = {"itl_p50_s": 0.0001, "itl_p95_s": 0.12, "pause_p50_s": 0.05, "pause_p95_s": 0.13}
    found = [
        row(pause_p50_s=0.03, pause_p95_s=0.05),
        row(deployment="x", **told),
        row(deployment="x", rtt_ms=50.0),
        row(deployment="x", rtt_ms=50.0, mbit=5.0),
    ]
    lines = lines_of(tables.between_tokens(found, "paced", 30.0))
    assert lines["p50 / p95 between tokens (pauses), ms"] == ["3 ms", "50 ms"]
    assert lines["cloud-only"] == ["30.0 / 50.0 (30.0 / 50.0)", tables.NONE]
    assert lines["x"] == ["0.1 / 120.0 (50.0 / 130.0)", "30.0 / 50.0 (– / –)"]
    assert tables.between_tokens(found, "paced", 5.0) == ""
    assert tables.between_tokens(found, "real", 30.0) == ""


def test_a_sampled_row_is_held_against_no_greedy_one() -> None:
    chosen = {"temperature": 0.8, "top_p": 0.95, "seed": 5}
    found = [row(), row(deployment="x", total_s=1.0, **chosen)]
    assert lines_of(tables.ratios(found, "paced", 30.0))["x"] == [tables.NONE, "1.00 s"]
    (cell,) = {each.cell for each in found[1:]}
    assert column_of(tables.times(found, cell), "x", "over cloud-only") == tables.NONE
    for change in (chosen, {**chosen, "seed": 6}, {**chosen, "top_p": 1.0}):
        with pytest.raises(CommandError, match=r"^row 2: .+no page shows both"):
            grid.check([row(temperature=0.8, top_p=0.9, seed=5), row(deployment="x", **change)])
    assert tables.beside_the_paper([row(**chosen)]) == "", "its decoding is not known"
