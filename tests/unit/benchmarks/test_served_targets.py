"""What services made of targets: counted by text and by token, under the calibration meant."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from benchmarks.exits.served import Asker, Calibrated, Kind, page, put_in
from benchmarks.prompts import Prompt
from cli.errors import CommandError
from cli.full_model import FullModel
from shared.exits.calibration import TEXTS, Agreement, ExitFit, Logistic, Target, file_of
from shared.exits.calibration import read_agreement as read
from shared.model import Manifest
from shared.model.exits import INDEX, WEIGHTS, drafter_files, exits_sha256

FIT = ExitFit(Logistic((1.0, 0.0, 0.0, 0.0), 0.5), 100, 0.3, 0.01)
AGREEMENT = Agreement("f" * 64, {3: FIT}, (Target(0.1, {3: 0.5}, 0.2),))
CUT = (3, 6)
PROMPTS = [Prompt("a", (1,)), Prompt("b", (2, 3))]


class Odd:
    """A full model that would have chosen odd ids only."""

    def agreeing(self, prompt: Sequence[int], tokens: Sequence[int], *, seed: int) -> int:
        assert len(prompt) == seed + 1  # each prompt with a seed of its own
        return sum(token % 2 for token in tokens)


def _asker(asked: list[httpx.Request], status: int = 200) -> Asker:
    texts = {"a": [1, 3, 5, 6], "b": [2, 4]}

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        ids = texts[json.loads(request.content)["inputs"]]
        usage = {"tokens_by_source": {"exit:3": len(ids) - 1, "cloud": 1}}
        details = {"tokens": [{"id": each} for each in ids], "usage": usage}
        return httpx.Response(status, json={"details": details})

    client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://edge")
    return Asker(client, cast(FullModel, Odd()), PROMPTS, new_tokens=4)


def test_texts_count_alike_and_tokens_do() -> None:
    asked: list[httpx.Request] = []
    row = _asker(asked).row(Kind(), 0.1)
    assert (row.texts, row.tokens) == (2, 6)
    assert row.disagreement == (1 / 4 + 1) / 2
    assert row.error == pytest.approx(0.375)
    assert (row.of_all_tokens, row.offloaded) == (3 / 6, 2 / 6)
    # Thresholds move for requests without one.
    assert len({request.headers["x-session-id"] for request in asked}) == 2


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_kind_is_asked_for_as_it_says(temperature: float) -> None:
    asked: list[httpx.Request] = []
    kind = Kind(temperature=temperature, top_p=0.9, codec="int8")
    assert _asker(asked).row(kind, 0.02).kind == kind.name
    assert kind.name.endswith("top_p 0.9, fp32, codec int8")
    for seed, request in enumerate(asked):
        parameters: dict[str, Any] = json.loads(request.content)["parameters"]
        assert parameters["max_disagreement"] == 0.02
        assert parameters["codec"] == "int8"
        assert parameters.get("temperature", 0.0) == temperature
        assert parameters.get("top_p") == (0.9 if temperature else None)
        assert parameters.get("seed") == (seed if temperature else None)


def test_a_refusal_is_told() -> None:
    with pytest.raises(CommandError, match="greedy, fp32: 422"):
        _asker([], status=422).row(Kind(), 0.1)


def test_a_page_has_each_row() -> None:
    row = _asker([]).row(Kind(), 0.1)
    told = page([row, replace(row, target=0.05)], "asked so\n")
    assert "asked so" in told
    assert "| greedy, fp32 | 0.1 | 0.6250 ± 0.3750 | 0.5000 | 0.333 |" in told
    assert "| greedy, fp32 | 0.05 |" in told


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder with exits and a drafter; the edge's bundle is the folder `edge` in it."""
    (tmp_path / INDEX).write_text(json.dumps({"exits": [{"layer": layer} for layer in CUT]}))
    (tmp_path / WEIGHTS).write_bytes(b"exits")
    drafter_files(tmp_path, *CUT)[1].write_bytes(b"drafter")
    (tmp_path / "edge").mkdir()
    manifest = SimpleNamespace(fingerprint=AGREEMENT.model_fingerprint, drafter=None)
    monkeypatch.setattr(Manifest, "read", lambda _: manifest)
    return tmp_path


@pytest.mark.parametrize("drafter", [None, {"greedy": 0.9}])
@pytest.mark.parametrize("calibrated", ["own", "by greedy text", "of float32"])
def test_the_calibration_put_in_is_the_one_meant(
    beside: Path, drafter: dict[str, float] | None, calibrated: Calibrated
) -> None:
    edge = beside / "edge"
    cast(Any, Manifest.read(edge)).drafter = drafter
    with_drafter = replace(AGREEMENT, exits_sha256=exits_sha256(beside, CUT))
    plain = replace(AGREEMENT, exits_sha256=exits_sha256(beside))
    plain.write(beside / file_of())
    with_drafter.write(beside / file_of(CUT))
    put_in(edge, beside, calibrated)
    right = with_drafter if drafter else plain
    found = {text: read(edge / file_of(text=text)) for text in TEXTS}
    assert found == {
        "greedy": right if calibrated == "of float32" else None,
        "sampled": replace(right, text="sampled") if calibrated == "by greedy text" else None,
    }


def test_a_model_without_a_calibration_is_told(beside: Path) -> None:
    with pytest.raises(CommandError, match=r"has no agreement\.json"):
        put_in(beside / "edge", beside, "of float32")
