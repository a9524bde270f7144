"""The engine's benchmark on the shipped model, as small as it goes."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engine import accuracy
from benchmarks.engine.__main__ import main, table
from benchmarks.engine.decode import Decoding
from benchmarks.engine.floor import Floor
from benchmarks.engine.models import whole_model
from cli.partition import SHIPPED_MODEL


def measure(out: Path, **changes: object) -> list[dict[str, Any]]:
    options = {"model": ["shipped"], "compute_format": ["fp32"], "sessions": [1], "context": [16]}
    main(**{**options, "repeats": 3, "threads": 1, "out": out, **changes})  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = json.loads((out / "latest.json").read_text())
    return rows


def test_a_row_has_a_step_its_floors_and_generate(tmp_path: Path) -> None:
    (row,) = measure(tmp_path, repeats=15)  # medians, some of which may be of a busy moment
    assert 0 < row["own_s"] < row["step_s"] <= row["step_p95_s"]
    assert row["over_own"] == pytest.approx(row["step_s"] / row["own_s"], rel=1)
    assert row["generate_s"] > 0
    page = (tmp_path / "latest.md").read_text()
    assert page.count("| shipped | fp32 | 1 | 16 |") == 1


def test_pieces_measured_apart_become_one_table(tmp_path: Path) -> None:
    measure(tmp_path)
    rows = measure(tmp_path, compute_format=["bf16"], add=True)
    assert [row["compute_format"] for row in rows] == ["fp32", "bf16"]
    again = measure(tmp_path, sessions=[2], add=True)
    assert [(row["compute_format"], row["sessions"]) for row in again] == [
        ("fp32", 1),
        ("fp32", 2),
        ("bf16", 1),
    ]
    assert len(measure(tmp_path, add=True)) == 3


def test_floors_multiply_every_linear_layer_once(tmp_path: Path) -> None:
    model = whole_model(SHIPPED_MODEL, tmp_path, "bf16")
    floor = Floor(model, 2)
    sizes = [weight.numel() for weight in floor._weights]
    assert len(sizes) == 7 * 12 + 1
    config = json.loads((SHIPPED_MODEL / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    assert sizes.count(hidden * inner) == 3 * 12
    # What the model multiplies with: queries, keys and values at once, and gate and up.
    assert len(floor._own) == 4 * 12 + 1
    floor.plain(2)
    floor.own(2)


def test_steps_stay_at_their_context(tmp_path: Path) -> None:
    model = whole_model(SHIPPED_MODEL, tmp_path, "bf16")
    decoding = Decoding.of(model, 2, 8)
    for _ in range(2):
        decoding.step()
        assert {kv.length(0) for kv in decoding.caches} == {9}
    decoding.close()
    assert model.kv_bytes == 0


def test_float32_loses_nothing_against_itself_and_int4_much(
    capsys: pytest.CaptureFixture[str],
) -> None:
    accuracy.main(count=3, tokens=8)
    lines = capsys.readouterr().out.splitlines()[2:]
    cells = {line.split("|")[1].strip(): line.split("|") for line in lines}
    distances = {kind: float(line[4]) for kind, line in cells.items()}
    assert cells["fp32"][2].strip() == "100.0%"
    assert distances["fp32"] == pytest.approx(0, abs=1e-6)
    assert distances["int8"] < 2e-3 < distances["int4"]


def test_the_page_says_how_many_threads() -> None:
    assert "3 threads" in table([], 3)
