"""Two runs held against each other: what counts as a difference, what is said, how it ends."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from benchmarks.report.compare import Comparison, compare, main
from benchmarks.rows import Row, save
from cli.errors import CommandError
from tests.support.benchmark_rows import row

STEPS = {"setup": "real", "mbit": None, "rtt_steps": 1.35}


def _run(**changes: Any) -> list[Row]:
    """Cloud-only and one deployment in both set-ups, the latter changed."""
    found = []
    for setup in ("paced", "real"):
        found += [row(setup=setup), row(setup=setup, **{"deployment": "x", **changes})]
    return found


def _compare(new: Sequence[Row], reference: Sequence[Row]) -> Comparison:
    return compare(new, reference, paced=0.05, real=0.15)


def _differing(new: Sequence[Row], reference: Sequence[Row]) -> list[tuple[str, str]]:
    return [(each.cell[0], each.figure) for each in _compare(new, reference).differences]


def test_the_same_run_on_a_slower_machine_is_within_tolerance() -> None:
    slower = [replace(each, total_s=7 * each.total_s) for each in _run()]
    told = _compare(slower, _run())
    assert (told.compared, told.differences, told.absent) == (2, [], [])


@pytest.mark.parametrize(
    ("total", "setups"),
    [
        (2.1, []),
        (2.12, ["paced"]),
        (1.88, ["paced"]),
        (2.3, ["paced"]),
        (2.32, ["paced", "real"]),
        (1.68, ["paced", "real"]),
    ],
)
def test_each_set_up_has_its_tolerance_either_way(total: float, setups: list[str]) -> None:
    found = _differing(_run(total_s=total), _run())
    assert found == [(setup, "total over cloud-only's") for setup in setups]


def test_cloud_only_becoming_slower_shows_in_what_is_held_against_it() -> None:
    new = [replace(each, total_s=4.0) if each.deployment != "x" else each for each in _run()]
    assert len(_differing(new, _run())) == 2


@pytest.mark.parametrize(
    ("change", "figure"),
    [
        ({"agreement": 0.96}, "agreement"),
        ({"identical": 0.52}, "identical"),
        ({"cloud_requests": 31}, "requests/token"),
    ],
)
def test_other_tokens_are_a_difference_in_the_paced_set_up(
    change: dict[str, Any], figure: str
) -> None:
    assert _differing(_run(**change), _run()) == [("paced", figure)]


def test_a_hundredth_is_allowed_and_other_prompts_have_other_tokens() -> None:
    assert not _differing(_run(agreement=0.97, identical=0.51), _run())
    other = [replace(each, prompts=3) for each in _run(agreement=0.5, cloud_requests=3)]
    assert not _differing(other, _run())


def test_round_trips_in_steps_are_the_same_network_on_machines_of_other_speed() -> None:
    new = [row(**STEPS, rtt_ms=11.5), row(**STEPS, rtt_ms=11.5, deployment="x", total_s=3.0)]
    old = [row(**STEPS, rtt_ms=9.7), row(**STEPS, rtt_ms=9.7, deployment="x")]
    assert _differing(new, old) == [("real", "total over cloud-only's")]


def _sampled(rows: Sequence[Row], **changes: Any) -> list[Row]:
    return [
        replace(each, **{"temperature": 0.8, "top_p": 0.95, "seed": 5, **changes}) for each in rows
    ]


@pytest.mark.parametrize(
    "change", [{"temperature": 0.0, "top_p": 1.0, "seed": None}, {"temperature": 0.7}, {"top_p": 1}]
)
def test_a_run_sampled_otherwise_is_no_reference(change: dict[str, Any]) -> None:
    sampled = _sampled(_run(total_s=9.0))
    assert len(_differing(sampled, _sampled(_run()))) == 2
    with pytest.raises(CommandError, match="sampled alike"):
        _compare(sampled, _sampled(_run(), **change))
    both = _compare(sampled, [*_sampled(_run(), **change), *sampled])
    assert (both.compared, both.differences, both.absent) == (2, [], [])


def test_other_seeds_give_other_tokens_and_the_same_ratios() -> None:
    other = _sampled(_run(agreement=0.5, total_s=2.2), seed=6)
    assert _differing(other, _sampled(_run())) == [("paced", "total over cloud-only's")]
    same = _sampled(_run(agreement=0.5))
    assert _differing(same, _sampled(_run())) == [("paced", "agreement")]


def test_a_difference_says_how_tokens_were_chosen() -> None:
    (paced, _) = _compare(_sampled(_run(total_s=9.0)), _sampled(_run())).differences
    assert str(paced).startswith("paced, 3 ms, 30 Mbit/s, temperature 0.8, top-p 0.95: x: ")


def test_what_only_the_reference_has_is_told_and_no_difference() -> None:
    more = [*_run(), row(deployment="gone", rtt_ms=3.0)]
    told = _compare(_run(), more)
    assert [each.deployment for each in told.absent] == ["gone"]
    assert not told.differences


def _command(tmp_path: Path, new: Sequence[Row], *options: str) -> Result:
    save(tmp_path / "new.json", new)
    save(tmp_path / "old.json", _run())
    app = Typer()
    app.command()(main)
    paths = [str(tmp_path / "new.json"), str(tmp_path / "old.json")]
    return CliRunner().invoke(app, [*paths, *options])


def test_both_figures_are_printed_and_the_code_is_1(tmp_path: Path) -> None:
    done = _command(tmp_path, _run(total_s=2.2))
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "paced, 3 ms, 30 Mbit/s: x: total over cloud-only's 1.100, reference 1.000 "
        "(allowed 5 % either way)",
        "2 rows compared, 1 figures out of tolerance",
    ]


def test_fewer_networks_are_no_difference(tmp_path: Path) -> None:
    assert _command(tmp_path, _run()[:2]).exit_code == 0


def test_a_deployment_missing_on_a_network_is_named_and_the_code_is_1(tmp_path: Path) -> None:
    rows = [*_run(), row(setup="paced", deployment="gone")]
    path = tmp_path / "with_more.json"
    save(path, rows)
    app = Typer()
    app.command()(main)
    save(tmp_path / "new.json", _run())
    done = CliRunner().invoke(app, [str(tmp_path / "new.json"), str(path)])
    assert done.exit_code == 1
    assert "only in the reference: paced, 3 ms, 30 Mbit/s: gone" in done.stdout


def test_tolerances_are_options(tmp_path: Path) -> None:
    new = _run(total_s=2.2)
    assert _command(tmp_path, new, "--tolerance-paced", "0.11").exit_code == 0
    assert _command(tmp_path, _run(), "--tolerance-real", "-1").exit_code == 2
    strict = _command(tmp_path, _run(total_s=2.06), "--tolerance-real", "0.02")
    assert strict.exit_code == 1
    assert strict.stdout.startswith("real")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ([row(rtt_ms=77.0), row(rtt_ms=77.0, deployment="x")], "in common"),
        # Their ratio is 1 whatever happened: to compare these would prove nothing.
        ([row(), row(setup="real")], "in common"),
        ([row(deployment="x")], "in common"),
        ([], "no rows"),
    ],
)
def test_nothing_to_compare_is_code_2(tmp_path: Path, new: list[Row], said: str) -> None:
    done = _command(tmp_path, new)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize("content", [None, b"no json", b'[{"deployment": "x"}]', b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_code_2(tmp_path: Path, content: bytes | None) -> None:
    save(tmp_path / "old.json", _run())
    if content is not None:
        (tmp_path / "new.json").write_bytes(content)
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(tmp_path / "new.json"), str(tmp_path / "old.json")])
    assert done.exit_code == 2
    assert "cannot compare: " in done.stderr
    assert len(done.stderr.splitlines()) == 1
