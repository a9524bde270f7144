"""The committed results are one whole run, and its page and simulation are made from its rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cells import full, loopback
from benchmarks.deployments import DEPLOYMENTS
from benchmarks.report.page import text
from benchmarks.rows import Row, load
from benchmarks.simulate.validate import traces_of, validate
from tests.repo.tree import ROOT

RESULTS = ROOT / "benchmarks" / "results"
ROWS = load(RESULTS / "latest.json")
# Measured after the last whole run, paced at one bandwidth.
LATER = load(RESULTS / "verified" / "latest.json")
SAMPLED = load(RESULTS / "sampled" / "latest.json")
ABOUT: dict[str, Any] = json.loads((RESULTS / "about.json").read_text())


def test_they_say_what_was_measured_where_and_when() -> None:
    assert ABOUT["commit"]
    assert not ABOUT["commit"].endswith("-dirty")
    assert ABOUT["machine"]
    assert ABOUT["date"]
    assert ABOUT["quick"] is False


@pytest.mark.parametrize("setup", ["real", "paced"])
def test_every_deployment_was_measured_on_every_network(setup: str) -> None:
    measured = {(row.deployment, row.rtt_ms, row.mbit) for row in ROWS if row.setup == setup}
    cells = [loopback("real"), *full("real")]
    named = {row.deployment for row in ROWS if row.deployment in DEPLOYMENTS}
    wanted = {(name, cell.rtt_ms, cell.mbit) for name in named for cell in cells}
    assert wanted <= measured


def test_every_deployment_was_measured_in_one_run_or_the_later() -> None:
    paced = {(row.deployment, row.rtt_ms) for row in LATER if row.setup == "paced"}
    for name in set(DEPLOYMENTS) - {row.deployment for row in ROWS}:
        assert {(name, rtt) for rtt in (3.0, 50.0, 100.0)} <= paced


def test_the_page_is_of_these_rows() -> None:
    page = (RESULTS / "latest.md").read_text()
    names = [line.partition("(")[2].rstrip(")") for line in page.splitlines() if line[:2] == "!["]
    pictures = {Path(name).stem: Path(name) for name in names}
    assert text(ROWS, ABOUT, pictures) == page
    assert all((RESULTS / name).exists() for name in names)


def test_the_simulation_is_of_these_rows_and_near_them() -> None:
    traces = traces_of(json.loads((RESULTS / "traces.json").read_text()))
    told = json.loads((RESULTS / "simulation.json").read_text())
    found = validate(ROWS, traces, depth=12)
    assert found.worst == pytest.approx(told["worst_error"], abs=1e-4)
    assert found.median < 0.01
    # docs/results.md says which cells are off by more than a twentieth, and why.
    far = [each.row.deployment for each in found.predicted if abs(each.error) > 0.05]
    assert set(far) <= {"CE-CoLLM 49.6%, half"}
    assert len(far) <= 0.02 * len(found.predicted)


@pytest.mark.parametrize("rows", [ROWS, LATER, SAMPLED], ids=["whole", "later", "sampled"])
def test_modes_that_promise_the_full_models_text_kept_it(rows: Sequence[Row]) -> None:
    promised = ("cloud-only", "naive split", "fair split", "CE-CoLLM 1.0", "self-speculation")
    for row in rows:
        if row.deployment in promised or row.deployment.startswith("verified"):
            assert (row.agreement, row.identical) == (1.0, 1.0), row
