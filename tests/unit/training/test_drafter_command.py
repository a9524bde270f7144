"""`tandem train-drafter`, and what `tandem partition` and the card then say of the drafter."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.errors import CommandError
from cli.main import app
from shared.model import Manifest
from training.evaluation.card import write_card
from training.evaluation.perplexity import evaluate
from training.evaluation.tuning import tune_thresholds

RUN = CliRunner()
CUT = ("--split", "1", "--edge-depth", "2")


def partitioned(model: Path, out: Path, *options: str) -> tuple[str, Manifest]:
    """What the command shows, and the edge's manifest."""
    result = RUN.invoke(app, ["partition", str(model), "--out", str(out), *CUT, *options])
    assert result.exit_code == 0, result.output
    return result.output, Manifest.read(out / "edge")


def taught(model: Path, text: Path, *options: str) -> str:
    command = ("train-drafter", str(model), str(text), *CUT, "--steps", "1", "--translator", "2")
    result = RUN.invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_trained_drafter_goes_into_the_next_bundle(
    trained: Path, text: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = taught(trained, text, "--held-out", str(held_out))
    content = json.loads((trained / "drafter-1-2.json").read_text())
    assert content["acceptance"]["prompts"] == 12
    assert f"{content['acceptance']['after']['greedy']:.1%}" in shown
    shown, manifest = partitioned(trained, tmp_path)
    assert manifest.drafter == content["acceptance"]["after"]
    assert "1 to 2" in shown
    assert f"{content['acceptance']['after']['greedy']:.1%} greedy" in shown
    shown, manifest = partitioned(trained, tmp_path, "--no-drafter")
    assert manifest.drafter is None
    assert "1 to 2" not in shown


def test_a_drafter_elsewhere_is_not_found(trained: Path, text: Path, tmp_path: Path) -> None:
    taught(trained, text, "--out", str(tmp_path / "drafters"))
    assert (tmp_path / "drafters" / "drafter-1-2.json").exists()
    assert partitioned(trained, tmp_path)[1].drafter is None


@pytest.mark.parametrize("cut", [("3", "2"), ("2", "4")])
def test_a_cut_that_cannot_be_made_is_one_line(
    trained: Path, text: Path, cut: tuple[str, str]
) -> None:
    command = ["train-drafter", str(trained), str(text), "--split", cut[0], "--edge-depth", cut[1]]
    result = RUN.invoke(app, command)
    assert isinstance(result.exception, CommandError)
    assert "no such cut" in str(result.exception)


@pytest.mark.parametrize("translator", ["0", "wide", "-1"])
def test_a_translator_that_is_none_is_one_line(trained: Path, text: Path, translator: str) -> None:
    command = ["train-drafter", str(trained), str(text), *CUT, "--translator", translator]
    assert "affine" in str(RUN.invoke(app, command).exception)


def test_the_card_tells_of_a_drafter_where_there_is_one(
    trained: Path, text: Path, held_out: Path
) -> None:
    evaluate(trained, held_out)
    tune_thresholds(trained, held_out, tokens=16)
    assert "Drafters" not in write_card(trained).read_text()
    taught(trained, text)
    card = write_card(trained).read_text()
    shares = json.loads((trained / "drafter-1-2.json").read_text())["acceptance"]
    assert "## Drafters" in card
    assert f"| 1 | 2 | sampled | {shares['tokens']['sampled']:,} |" in card
    assert "$" not in card
