"""`tandem evaluate` without services: settings, sums, tables and pictures, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import torch

from cli.errors import CommandError
from cli.evaluate.command import evaluate
from cli.evaluate.findings import Findings
from cli.evaluate.modes import Asker, Row
from cli.evaluate.plots import draw
from cli.evaluate.settings import NAMES, setting
from cli.evaluate.tables import report
from cli.full_model import FullModel
from shared.exits.calibration import Agreement, ExitFit, Logistic, Target
from shared.exits.traces import read_traces
from tests.support.reference import MODEL
from training.calibration.thresholds import apply_thresholds
from training.evaluation.assessment import Answer, Assessment, Swept
from training.evaluation.curves import curves, point
from training.evaluation.perplexity import Score
from training.evaluation.reading import Reading
from training.evaluation.trust import trust
from training.text.documents import Prompt

ROWS = [
    {"prompt": "User: Find me a room.\nAssistant:", "reference": "For how many nights?"},
    {"prompt": "Once upon a time"},
    {"text": "The king asked his daughter where the golden bird had gone."},
]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("cloud", {"mode": "cloud"}),
        ("split, int8", {"mode": "split", "codec": "int8"}),
        ("collaborative, default", {"mode": "collaborative"}),
        ("collaborative,0.8,fp16", {"mode": "collaborative", "threshold": 0.8, "codec": "fp16"}),
        (
            "collaborative, repair=true, on_cloud_loss=error",
            {"mode": "collaborative", "repair": True, "on_cloud_loss": "error"},
        ),
    ],
)
def test_a_settings_name_is_its_spelling(name: str, parameters: dict[str, object]) -> None:
    assert setting(name).parameters == parameters


def test_the_settings_of_the_table_are_named_as_they_are_spelled() -> None:
    assert [setting(name).name for name in NAMES] == list(NAMES)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("clod", "begins with one of cloud"),
        ("cloud, int9", "'int9' is no"),
        ("verified, temperature=0.8", "greedily, and temperature has others"),
        ("cloud, repetition_penalty = 1.3", "greedily, and repetition_penalty has others"),
    ],
)
def test_a_misspelled_setting_is_refused(name: str, told: str) -> None:
    with pytest.raises(CommandError, match=told):
        setting(name)


class _Judge:
    """A model that always says 7."""

    def agreeing(self, prompt: Any, tokens: list[int]) -> int:
        assert list(prompt) == [1]
        return tokens.count(7)


def _answer(ids: list[int], text: str) -> Answer:
    return Answer(ids=ids, text=text, reading=Reading(*(torch.empty(0) for _ in range(3))))


def _asker(edge: Any, tokens: int = 3) -> Asker:
    prompts = [Prompt("a", (1,), "the dog sat"), Prompt("b", (1,))]
    whole = [_answer([7, 7], "the cat sat"), _answer([7, 8], "one two")]
    client = httpx.Client(transport=httpx.MockTransport(edge), base_url="http://edge")
    return Asker(client, cast(FullModel, _Judge()), prompts, whole, tokens=tokens)


def test_answers_are_summed_and_held_against_model_and_reference() -> None:
    asked = []

    def edge(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append(body["parameters"])
        ids, text = {"a": ([7, 7], "the cat sat"), "b": ([7, 9], "one")}[body["inputs"]]
        usage = {
            "tokens_by_source": {"exit:3": 1, "cloud": 1},
            "cloud_requests": 1,
            "bytes_up": 100,
        }
        details = {"tokens": [{"id": n} for n in ids], "usage": usage}
        return httpx.Response(200, json={"generated_text": text, "details": details})

    told: list[tuple[str, int, int]] = []
    row = _asker(edge).row(setting("collaborative, 0.5"), lambda *each: told.append(each))
    assert asked[0] == {
        "mode": "collaborative",
        "threshold": 0.5,
        "max_new_tokens": 3,
        "details": True,
    }
    assert told == [("asking: collaborative, 0.5", done, 2) for done in (1, 2)]
    content = row.content()
    assert content["tokens"] == 4
    assert content["agreement"] == 0.75
    assert content["identical"] == 1
    # "one" has one of two words, all of its own: F = 2 * 0.5 * 1 / 1.5.
    assert content["rouge_l_full"] == pytest.approx((1 + 2 / 3) / 2)
    # One prompt has a reference; two of three words are in both.
    assert content["rouge_l_reference"] == pytest.approx(2 / 3)


def test_a_refusing_edge_ends_the_command_with_its_words() -> None:
    def edge(_: httpx.Request) -> httpx.Response:
        return httpx.Response(422, json={"error": "no field named theshold"})

    def gone(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    for behaviour, told in ((edge, "cloud: the edge answered 422.*theshold"), (gone, "no answer")):
        with pytest.raises(CommandError, match=told):
            _asker(behaviour).row(setting("cloud"), lambda *_: None)


def _findings(*, tokens: int = 400) -> Findings:
    """Of two exits that are right as often as they are sure, all sections filled."""
    torch.manual_seed(1)
    top = torch.rand(3, tokens)
    choices = torch.zeros(3, tokens, dtype=torch.int64)
    choices[:2] = (torch.rand(2, tokens) > top[:2]).long()
    reading = Reading(choices, torch.stack([top, 1 - top, top / 2, 1 - top]), torch.rand(3, tokens))
    confidence, agrees = top[:2].numpy(), reading.agrees.numpy()
    swept = Swept(
        tokens=tokens,
        own_thresholds=point(confidence, agrees, (0.5, 0.25)),
        curves=curves(confidence, agrees, (3, 6)),
    )
    fit = ExitFit(Logistic((4.0, 0.0, 0.0, 0.0), -2.0), 100, 0.1, 0.01)
    agreement = Agreement("f", {3: fit, 6: fit}, (Target(0.01, {3: 0.9, 6: 0.8}, 0.5),))
    answer = Answer(ids=[0] * tokens, text="", reading=reading)
    assessment = Assessment(
        documents=1234,
        new_tokens=64,
        passed_over=12,
        held_out=Score(
            tokens=123_456,
            perplexity={3: 12_345.6, 6: 181.26, 12: 9.8746},
            perplexity_error={3: 1234.5, 6: 1.5, 12: None},
            bits_per_byte=1.234,
            agreement={3: 0.6, 6: 1.0},
            kept=apply_thresholds(confidence, agrees, (0.5, 0.25)),
        ),
        on_held_out=swept,
        on_answers=swept,
        trust=trust(reading, (3, 6), agreement, [1, tokens - 1]),
        prompts=[Prompt("a", (1,))],
        answers=[answer],
    )
    sources = {"exit:3": 1, "exit:6": 2, "draft": 3, "cloud": 4000}
    rows = [Row(name, requests=4000, bytes_up=12_345_678, agreeing=4000) for name in NAMES]
    for row in rows:
        row.sources.update(sources)
        row.identical = row.prompts = 1000
        row.to_full, row.to_reference = 0.5, None
    return Findings(
        model="a-model-with-a-name",
        fingerprint="f",
        exits_sha256=None,
        file="questions.jsonl.xz",
        depth=12,
        thresholds={3: 0.5587, 6: 0.2251},
        assessment=assessment,
        drafter=True,
        rows=rows,
    )


def test_no_line_of_the_tables_is_wider_than_a_terminal() -> None:
    findings = _findings()
    lines = report(findings).splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert "| exit 3 |     12,346 |        1,234 |                  60.0% |" in lines
    assert "| end    |      9.875 |            – |                      – |" in lines
    agreement = [line for line in lines if line.startswith("| standalone") and "1000 of" in line]
    assert " ".join(agreement[0].split()) == "| standalone | 99.9% | 1000 of 1000 | 0.500 | – |"


def test_a_section_without_figures_is_left_out() -> None:
    findings = _findings()
    bare = replace(findings.assessment, held_out=None, trust=None)
    told = report(replace(findings, assessment=bare, rows=[]))
    assert [line for line in told.splitlines() if line.startswith("## ")] == ["## Thresholds"]


def test_pictures_are_drawn_of_what_was_found(tmp_path: Path) -> None:
    findings = _findings()
    names = [file.name for file in draw(findings, tmp_path / "new")]
    assert names == ["thresholds.png", "reliability.png", "rouge.png"]
    assert all((tmp_path / "new" / name).stat().st_size > 10_000 for name in names)
    bare = replace(findings.assessment, trust=None, on_answers=None, on_held_out=None)
    assert draw(replace(findings, assessment=bare, rows=[]), tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="cannot be written"):
        draw(findings, tmp_path / "file")


def test_everything_that_was_found_is_in_the_json() -> None:
    content = json.loads(json.dumps(_findings().content(), allow_nan=False))
    assert content["held_out"]["perplexity"] == {"3": 12345.6, "6": 181.26, "12": 9.8746}
    assert content["thresholds_on_answers"]["curves"][2]["exits"] == [3, 6]
    assert content["calibration"]["targets"][0]["max_disagreement"] == 0.01
    assert [row["setting"] for row in content["settings"]] == list(NAMES)


def test_a_quick_look_writes_tables_figures_and_traces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = tmp_path / "talk.jsonl", tmp_path / "out.md"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    evaluate(
        rows,
        max_new_tokens=6,
        services=False,
        drafter=False,
        out=out,
        json_file=tmp_path / "all.json",
        traces=tmp_path / "traces.jsonl.xz",
    )
    assert capsys.readouterr().out == out.read_text()
    assert "## Held-out tokens" in out.read_text()
    content = json.loads((tmp_path / "all.json").read_text())
    assert (content["documents"], content["prompts"], content["settings"]) == (3, 2, [])
    first, second = read_traces(tmp_path / "traces.jsonl.xz")
    assert (first.document, second.document) == ("talk-1", "talk-2")
    assert first.model_fingerprint == content["model_fingerprint"]
    assert len(first) + len(second) == content["thresholds_on_answers"]["tokens"]
    assert list(first.exits) == [3, 6]


@pytest.mark.parametrize(
    ("line", "options", "told"),
    [
        ("{", {}, "talk.jsonl, line 1: no JSON"),
        ('{"text": "a"}', {"traces": Path("t.jsonl")}, "traces are of answers"),
        ('{"text": "a"}', {"out": Path("no/such/folder")}, "no such folder"),
        ('{"text": "a"}', {"only": ["verify"]}, "begins with one of"),
        ('{"text": "a"}', {"model": Path("none")}, "no exits"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_model_is_loaded(
    line: str, options: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("talk.jsonl").write_text(line + "\n")
    with pytest.raises(CommandError, match=told):
        evaluate(Path("talk.jsonl"), **{"model": MODEL, **options})
    with pytest.raises(CommandError, match=r"No such file.*none\.jsonl"):
        evaluate(Path("none.jsonl"), model=MODEL)


def test_help_costs_neither_torch_nor_a_picture() -> None:
    heavy = "{'torch', 'transformers', 'matplotlib', 'rouge_score'}"
    code = f"import sys, cli.main; print({heavy} & set(sys.modules))"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr
