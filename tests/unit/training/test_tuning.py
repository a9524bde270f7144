"""Thresholds chosen on what the whole model writes, and tested on other prompts."""

import json
from pathlib import Path

import pytest

from shared.model.exits import ExitInfo, read_exits
from tests.unit.training.conftest import documents, write_rows
from training.calibration.thresholds import apply_thresholds
from training.evaluation.card import write_card
from training.evaluation.perplexity import evaluate
from training.evaluation.reading import Reader, join
from training.evaluation.tuning import tune_thresholds


def test_tuning_writes_what_it_found_and_what_that_is_worth(trained: Path, held_out: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    found = tune_thresholds(
        trained,
        held_out,
        tokens=16,
        progress=lambda what, done, total: seen.update({what: (done, total)}),
    )
    assert len(seen) == 5
    assert set(seen.values()) == {(12, 12)}
    assert found.tested_on is not None
    assert found.chosen_on.agreement is None or found.chosen_on.agreement >= 0.95
    assert found.chosen_on.tokens + found.tested_on.tokens <= 12 * 16
    infos = map(ExitInfo, found.thresholds, found.tested_on.agreements, found.gaps.values())
    assert read_exits(trained).infos == dict(zip(found.exits, infos, strict=True))
    assert json.loads((trained / "calibration.json").read_text())["target"] == 0.95


def test_tuning_chooses_on_one_half_and_tests_on_the_other(trained: Path, held_out: Path) -> None:
    found = tune_thresholds(trained, held_out, tokens=16)
    reader = Reader(trained)
    prompts = [reader.ids(f"{text[:30]}\n") for text in documents(12, offset=5)]
    answers = reader.continuations(prompts, 16)
    halves = [
        join(
            [
                reader.read([*prompts[n], *answers[n]]).at(
                    len(prompts[n]) - 1, len(prompts[n]) + len(answers[n]) - 1
                )
                for n in range(first, 12, 2)
            ]
        )
        for first in (0, 1)
    ]
    measured = [
        apply_thresholds(half.confidence[:-1].numpy(), half.agrees.numpy(), found.thresholds)
        for half in halves
    ]
    assert measured == [found.chosen_on, found.tested_on]


def test_questions_about_one_passage_are_one_prompt(trained: Path, tmp_path: Path) -> None:
    text = documents(1, offset=5)[0]
    rows = [{"prompt": f"{text}\n{number}"} for number in range(3)]
    write_rows(tmp_path / "asked.jsonl.xz", [{"prompt": "the king\n"}, *rows])
    assert len(Reader(trained).ids(text)) >= 40
    found = tune_thresholds(trained, tmp_path, tokens=4)
    assert found.tested_on is not None
    assert found.chosen_on.tokens + found.tested_on.tokens <= 2 * 4


def test_thresholds_tested_on_nothing_say_so(trained: Path, held_out: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "asked.jsonl.xz", [{"prompt": "the king\n"}])
    found = tune_thresholds(trained, tmp_path, tokens=4)
    assert (found.tested_on, found.tested_by_source) == (None, {})
    assert {info.agreement for info in read_exits(trained).infos.values()} == {None}
    evaluate(trained, held_out)
    assert "the other prompts" not in write_card(trained).read_text()


def test_tuning_without_prompts_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prompts"):
        tune_thresholds(trained, tmp_path)
