"""What a person sees of the rows: tables, pictures, the page, and the comparison of two runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import compare, tables
from benchmarks.compare import differences
from benchmarks.page import write_page
from benchmarks.rows import Row, save
from cli.errors import CommandError
from tests.support.benchmark_rows import row

ABOUT = {
    "commit": "abc123", "machine": "2 cores", "date": "2026-01-02T03:04:05+00:00", "quick": True,
    "seconds": 9, "prompts": "prompts.jsonl", "late_steps": 4,
    "unit_costs_ms": {"cloud-only": [36.98, 36.98], "naive cloud": [22.42, 25.34]},
}  # fmt: skip


def _rows() -> list[Row]:
    cells = [(0.0, None), (3.0, 30.0), (50.0, 30.0)]
    found = []
    for setup in ("real", "paced"):
        for rtt, mbit in cells:
            each = row(setup=setup, rtt_ms=rtt, mbit=mbit, repeats=2)
            found += [each, replace(each, deployment="CE-CoLLM 49.6%", total_s=3.0 + rtt)]
    steps = row(setup="real", rtt_ms=10.4, mbit=None, rtt_steps=1.35)
    peer = row(setup="real", rtt_ms=0.0, mbit=None, deployment="llama.cpp cloud", peer=True)
    return [*found, steps, peer]


def test_ratios_are_to_cloud_only_of_the_same_network() -> None:
    lines = _lines(tables.ratios(_rows(), "paced", 30.0))
    assert lines[0] == ["total / cloud-only", "3 ms", "50 ms"]
    assert lines[3][:2] == ["CE-CoLLM 49.6%", "3.00 (0.95 to 1.10)"]
    assert lines[3][2].startswith("26.50")
    assert lines[4] == ["(cloud-only, a token)", "33.3 ms", "33.3 ms"]


def test_loopback_stands_beside_round_trips_in_steps_and_peers_do_not() -> None:
    text = tables.ratios(_rows(), "real", None)
    assert _lines(text)[0] == ["total / cloud-only", "loopback", "1.35 steps (10.4 ms)"]
    assert "llama.cpp" not in text
    # CE-CoLLM was not measured there.
    assert _lines(text)[3][2] == tables.NONE


def test_a_cell_shows_peers_without_bytes() -> None:
    lines = _lines(tables.cell(_rows(), "real", 0.0, None))
    assert [line[0] for line in lines[2:]] == ["cloud-only", "CE-CoLLM 49.6%", "llama.cpp cloud"]
    head = lines[0]
    ours, peer = lines[2], lines[4]
    assert ours[head.index("bytes up/token (wire)")] == "1,000 (1,500)"
    assert peer[head.index("bytes up/token (wire)")] == tables.NONE
    assert ours[head.index("requests/token")] == "0.500"
    assert ours[head.index("identical")] == "1 of 2"


def test_the_papers_figures_stand_beside_ours() -> None:
    lines = _lines(tables.beside_the_paper(_rows()))
    ours = next(line for line in lines if line[0] == "CE-CoLLM 49.6%")
    assert ours[1] == "0.862 / 3.000"
    assert ours[2] == "0.305 / 0.500"
    assert ours[5] == "0.496 / 0.500"
    assert ours[6] == "9,796 / 1,000"
    assert tables.beside_the_paper([row(setup="real")]) == ""


def test_the_page_has_every_table_and_picture(tmp_path: Path) -> None:
    save(tmp_path / "latest.json", _rows())
    (tmp_path / "about.json").write_text(json.dumps(ABOUT))
    text = write_page(tmp_path).read_text()
    for told in ("abc123", "2 cores", "2026-01-02", "price: 4", "-11.5%", "### 30 Mbit/s"):
        assert told in text
    pictures = {"total_paced", "total_real", "cost_paced", "cost_real", "bytes"}
    for name in pictures:
        assert f"({name}.png)" in text
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_of_the_same_rows_are_the_same_file(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        save(folder / "latest.json", _rows())
        (folder / "about.json").write_text(json.dumps(ABOUT))
        write_page(folder)
        made.append((folder / "cost_paced.png").read_bytes())
    assert made[0] == made[1]


def test_a_page_needs_its_account(tmp_path: Path) -> None:
    save(tmp_path / "latest.json", _rows())
    with pytest.raises(CommandError, match=r"about\.json"):
        write_page(tmp_path)


def test_the_same_run_on_a_slower_machine_is_within_bounds() -> None:
    slower = [replace(each, total_s=each.total_s * 3) for each in _rows()]
    assert not differences(slower, _rows(), paced=0.05, real=0.2)


def test_what_became_slower_than_cloud_only_is_named() -> None:
    slower = [
        replace(each, total_s=each.total_s * 1.1) if each.deployment != "cloud-only" else each
        for each in _rows()
    ]
    found = differences(slower, _rows(), paced=0.05, real=0.2)
    assert {(each.row.setup, each.row.deployment) for each in found} == {
        ("paced", "CE-CoLLM 49.6%")
    }
    assert "CE-CoLLM 49.6%: total / cloud-only 3.300, was 3.000" in str(found[1])


@pytest.mark.parametrize("figure", ["agreement", "identical", "offloaded"])
def test_other_tokens_are_named_in_the_paced_set_up_only(figure: str) -> None:
    other = [Row.from_json({**each.to_json(), figure: 0.3}) for each in _rows()]
    found = differences(other, _rows(), paced=0.05, real=0.2)
    assert {(each.row.setup, each.figure) for each in found} == {("paced", figure)}
    longer = [replace(each, tokens=120, total_s=2 * each.total_s) for each in other]
    assert not differences(longer, _rows(), paced=0.05, real=0.2)


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.5, 1)])
def test_the_command_says_by_its_code_whether_anything_differs(
    tmp_path: Path, factor: float, code: int
) -> None:
    save(tmp_path / "old.json", _rows())
    changed = [
        replace(each, total_s=each.total_s * factor) if "CE" in each.deployment else each
        for each in _rows()
    ]
    save(tmp_path / "new.json", changed)
    assert _compare(tmp_path / "new.json", tmp_path / "old.json") == code


def test_nothing_to_compare_is_code_2(tmp_path: Path) -> None:
    save(tmp_path / "old.json", _rows())
    save(tmp_path / "other.json", [row(rtt_ms=77.0)])
    assert _compare(tmp_path / "other.json", tmp_path / "old.json") == 2
    assert _compare(tmp_path / "missing.json", tmp_path / "old.json") == 2


def _compare(new: Path, old: Path) -> int:
    app = Typer()
    app.command()(compare.main)
    return CliRunner().invoke(app, [str(new), str(old)]).exit_code


def _lines(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
