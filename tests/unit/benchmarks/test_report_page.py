"""The page on a run: all of it is there, links lead somewhere, and what lacks is said."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks.report.__main__ import main
from benchmarks.report.page import write
from benchmarks.rows import Row, save
from cli.errors import CommandError
from tests.support.benchmark_rows import row

ABOUT: dict[str, Any] = {
    "commit": "abc123", "machine": "2 cores, some processor", "quick": True, "late_steps": 4,
    "date": "2026-01-02T03:04:05+00:00", "prices": {"step": 1.0},
}  # fmt: skip


def _rows() -> list[Row]:
    found = []
    for name in ("cloud-only", "CE-CoLLM 0.8"):
        for rtt in (3.0, 50.0):
            found += [row(deployment=name, rtt_ms=rtt), row(setup="real", deployment=name)]
        found.append(row(setup="real", deployment=name, rtt_ms=0.0, mbit=None))
    peer = row(setup="real", rtt_ms=0.0, mbit=None, deployment="llama.cpp edge", peer=True)
    unique = {(each.cell, each.deployment): each for each in [*found, peer]}
    return list(unique.values())


def _folder(path: Path, rows: list[Row], about: object) -> Path:
    save(path / "latest.json", rows)
    (path / "about.json").write_text(json.dumps(about))
    return path


def test_the_page_has_every_part_and_says_where_it_comes_from(tmp_path: Path) -> None:
    page = write(_folder(tmp_path, _rows(), ABOUT))
    assert page == tmp_path / "latest.md"
    text = page.read_text()
    for told in (
        "Quick run of commit `abc123` on 2 cores, some processor, 2026-01-02T03:04:05+00:00",
        "2 prompts, 60 tokens in all, 1 run.",
        "could not hold their price: 4.",
    ):
        assert told in text
    assert re.findall(r"^##+ (.+)$", text, flags=re.MULTILINE) == [
        "Paced: 7B unit costs", "30 Mbit/s", "3 ms, 30 Mbit/s, every figure",
        "Real compute: the shipped model", "30 Mbit/s", "No bandwidth limit",
        "Loopback, every figure", "3 ms, 30 Mbit/s, every figure", "Bytes",
        "Other people's software", "Beside the paper's table",
        "The emulated networks as measured",
    ]  # fmt: skip


def test_every_picture_is_shown_and_lies_beside_the_page(tmp_path: Path) -> None:
    text = write(_folder(tmp_path, _rows(), ABOUT)).read_text()
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert sorted(linked) == sorted(file.name for file in tmp_path.glob("*.png"))
    assert set(linked) == {"total_by_rtt_paced.png", "cost_paced.png", "cost_real.png", "bytes.png"}


def test_what_was_not_measured_has_no_heading(tmp_path: Path) -> None:
    rows = [row(rtt_ms=20.0, rtt_measured_ms=None)]
    text = write(_folder(tmp_path, rows, {**ABOUT, "quick": False, "commit": None})).read_text()
    assert "Full run of commit `unknown`" in text
    for absent in ("Other people", "Beside the paper", "as measured", "Real compute"):
        assert absent not in text
    assert "### 20 ms, 30 Mbit/s, every figure" in text


def test_a_sampled_page_says_so_in_its_titles_and_pictures(tmp_path: Path) -> None:
    told: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": 5}
    told |= {"ratio_paired": 0.9, "ratio_low": 0.8, "ratio_high": 1.0}
    rows = [replace(each, **told) for each in _rows() if not each.peer]
    text = write(_folder(tmp_path, rows, ABOUT)).read_text()
    title = "# Results of the benchmark, sampled at temperature 0.8, top-p 0.95, seed 5"
    assert text.splitlines()[0] == title
    heads = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert heads[0] == "Paced: 7B unit costs; temperature 0.8, top-p 0.95"
    assert heads[1].startswith("Real compute: the shipped model; temperature 0.8")
    for words in ("the same seed", "*Paired* is the median"):
        assert words in text
    greedy = write(_folder(tmp_path, _rows(), ABOUT)).read_text()
    for untold in ("temperature", "seed", "paired", "Paired"):
        assert untold not in greedy


@pytest.mark.parametrize("key", ["commit", "machine", "date", "quick"])
def test_an_account_that_lacks_something_is_refused(tmp_path: Path, key: str) -> None:
    told = {name: value for name, value in ABOUT.items() if name != key}
    with pytest.raises(CommandError, match=rf"about\.json lacks {key}$"):
        write(_folder(tmp_path, _rows(), told))


@pytest.mark.parametrize("about", [[], None])
def test_an_account_of_another_kind_is_refused(tmp_path: Path, about: object) -> None:
    with pytest.raises(CommandError, match="no account"):
        write(_folder(tmp_path, _rows(), about))
    assert not (tmp_path / "latest.md").exists()


def test_the_command_tells_the_page_or_what_is_missing(tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    failed = CliRunner().invoke(app, ["--results", str(tmp_path)])
    assert failed.exit_code == 1
    assert "latest.json" in failed.stderr
    assert "Traceback" not in failed.output
    done = CliRunner().invoke(app, ["--results", str(_folder(tmp_path, _rows(), ABOUT))])
    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "latest.md")
