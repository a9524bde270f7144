"""Teaching exits to a checkpoint: what is written, where, when, and what is refused."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from cli.errors import CommandError
from cli.main import app
from shared.model import LayerSpan, Segment, load_span
from shared.model.checkpoint import read_header
from shared.model.exits import read_exits
from shared.model.network import TranslatorShape
from tests.unit.training.conftest import documents, write_rows
from tests.unit.training.test_translators import PACE, digests
from training.heads import exit_learning, own_text, places
from training.heads.exit_learning import ExitPlan, learn_exits
from training.heads.own_text import write_own
from training.heads.translating import Pace
from training.text.exit_text import HELD_OUT, read_documents

PLAN = ExitPlan(exits=(1, 3), minutes=None, steps=8, answer=8, prompts=3, pace=PACE)
RUN = CliRunner()
MADE = {"exits.json", "exits.safetensors", "calibration.json", "translators.json"}


@pytest.fixture(autouse=True)
def sketch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture but in the one test that looks at it: drawing costs more than all the rest."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(exit_learning, "draw_curve", lambda _content, file: file.touch())


@pytest.fixture
def bare(trained: Path) -> Path:
    """A trained checkpoint without its exits, and with what else may lie beside one."""
    for path in trained.glob("exits.*"):
        path.unlink()
    (trained / "agreement.json").write_text("{}")
    return trained


def test_exits_and_a_picture_lie_beside_files_that_did_not_change(bare: Path, text: Path) -> None:
    (bare / "agreement.json").unlink()
    before = digests(bare)
    content = learn_exits(bare, PLAN, texts=[text])
    after = digests(bare)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {*MADE, "translators.png"}
    assert (bare / "translators.png").read_bytes().startswith(b"\x89PNG")
    exits = read_exits(bare)
    assert exits.infos.keys() == {1, 3}
    assert exits.model_fingerprint == content["model_fingerprint"]
    assert exits.tensors["exits.1.translator.weight"].dtype == torch.bfloat16  # as the checkpoint
    assert content == json.loads((bare / "translators.json").read_text())
    assert content["curve"][-1]["step"] == content["steps"] == 8
    calibration = json.loads((bare / "calibration.json").read_text())
    for layer, threshold in zip((1, 3), calibration["thresholds"], strict=True):
        assert exits.info(layer).threshold == threshold


def test_elsewhere_exits_lie_alone_unless_a_copy_is_asked_for(
    bare: Path, text: Path, tmp_path: Path
) -> None:
    before = digests(bare)
    plan = replace(PLAN, steps=1, translator=TranslatorShape(rank=2))
    learn_exits(bare, plan, texts=[text], out=tmp_path / "alone")
    learn_exits(bare, plan, texts=[text], out=tmp_path / "whole", copy=True)
    assert digests(bare) == before
    made = {*MADE, "translators.png"}
    assert digests(tmp_path / "alone").keys() == made
    weights = load_file(tmp_path / "alone" / "exits.safetensors")
    assert weights["exits.1.translator.down.weight"].shape == (2, 32)
    assert digests(tmp_path / "whole").keys() == made | before.keys() - {"agreement.json"}
    span = LayerSpan(0, 4, 4)
    load_span(
        tmp_path / "whole", span, dtype=torch.float32, embedding=True, head=True, exits=(1, 3)
    )


def test_exits_that_are_there_are_replaced_on_request_and_compared_with(
    trained: Path, text: Path, held_out: Path
) -> None:
    of_them = (
        "agreement-1-2.json",
        "drafter-1-2.json",
        "drafter-1-2.safetensors",
        "evaluation.json",
    )
    for name in of_them:
        (trained / name).write_text("{}")
    before = digests(trained)
    plan = replace(PLAN, exits=(2,), steps=0)
    with pytest.raises(ValueError, match="has exits"):
        learn_exits(trained, plan, texts=[text])
    assert digests(trained) == before
    content = learn_exits(trained, plan, texts=[text], held_out=held_out, replace=True)
    assert not any((trained / name).exists() for name in of_them)
    assert read_exits(trained).infos.keys() == {2}
    assert content["own_exits"].keys() == {"2"}
    lens, own = content["curve"][0]["exits"]["2"], content["own_exits"]["2"]
    assert own["divergence"] != pytest.approx(lens["divergence"], abs=1e-6)


def test_a_model_teaches_itself_without_any_text(bare: Path) -> None:
    plan = replace(PLAN, own=True, own_tokens=4000, steps=40, pace=Pace())
    content = learn_exits(bare, plan)
    assert content["text"] == "own"
    first, last = (content["curve"][n]["exits"] for n in (0, -1))
    for layer in ("1", "3"):
        assert last[layer]["divergence"] < first[layer]["divergence"]


def test_nothing_is_judged_on_what_was_learned(
    bare: Path, text: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[tuple[set[tuple[int, ...]], set[tuple[int, ...]]]] = []
    original = exit_learning._Workshop.gather

    def gather(*given):  # type: ignore[no-untyped-def]
        streams, judged, prompts = original(*given)
        gathered.append(({tuple(d) for s in streams for d in s}, {tuple(d) for d in judged}))
        return streams, judged, prompts

    monkeypatch.setattr(exit_learning._Workshop, "gather", gather)
    # The held-out folder's texts are among those to learn from, too.
    write_rows(text / "leak.jsonl.xz", [{"text": text} for text in documents(12, offset=5)])
    plan = replace(PLAN, steps=0)
    learn_exits(bare, plan, texts=[text], replace=True)
    learn_exits(bare, replace(plan, own=True, own_tokens=300), texts=[text], replace=True)
    learn_exits(bare, plan, texts=[text], held_out=held_out, replace=True)
    assert len(gathered) == 3
    for learned, judged in gathered:
        assert learned
        assert judged
        assert not learned & judged
    assert len(gathered[0][1]) == -(-sum(map(len, gathered[0])) // HELD_OUT)


def test_own_text_is_the_models_and_ends_where_it_ends(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_text, "_ROWS", 8)
    span = LayerSpan(0, 4, 4)
    model = load_span(trained, span, dtype=torch.float32, embedding=True, head=True)
    found = write_own(model, 900, begin=0, end=1, seed=3)
    assert sum(map(len, found)) >= 900
    assert found == write_own(model, 900, begin=0, end=1, seed=3)
    other = write_own(model, 900, begin=0, end=1, seed=4)
    assert [text[1] for text in found[:8]] != [text[1] for text in other[:8]]
    assert all(text[0] == 0 and 1 not in text[:-1] for text in found)
    assert len({text[0] for text in write_own(model, 500, begin=None, end=1, seed=3)}) > 5
    # Texts of even number go on greedily after their opening.
    text = max(found[0:8:2], key=len)
    with model.new_cache() as cache, torch.inference_mode():
        ids = torch.tensor(text)
        states = model.forward([Segment(cache, 0, 4, 0, ids, None)])[0]
        greedy = model.logits(states).argmax(dim=-1)[:-1] == ids[1:]
    assert greedy[-60:].all()


def test_documents_are_learned_with_their_end(
    bare: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, endings = read_documents, set[int]()

    def watched(*given: Any, **named: Any) -> list[list[int]]:
        documents = read(*given, **named)
        endings.update(ids[-1] for ids in documents)
        return documents

    monkeypatch.setattr(exit_learning, "read_documents", watched)
    learn_exits(bare, replace(PLAN, steps=0), texts=[text])
    assert endings == {1}


def test_openings_of_own_text_are_drawn_from_all_of_the_distribution(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, asked = own_text._choose, list[tuple[int, int]]()

    def watched(logits: torch.Tensor, narrow: Any, greedy: Any, generator: Any) -> list[int]:
        asked.append((sum(narrow), sum(greedy)))
        return choose(logits, narrow, greedy, generator)

    monkeypatch.setattr(own_text, "_choose", watched)
    monkeypatch.setattr(own_text, "_ROWS", 4)
    model = load_span(trained, LayerSpan(0, 4, 4), dtype=torch.float32, embedding=True, head=True)
    write_own(model, 1, begin=0, end=None, seed=3)
    opening = asked.index((2, 2))
    assert 8 <= opening <= 64
    assert asked == [(0, 0)] * opening + [(2, 2)] * (len(asked) - opening)


def test_until_the_end_nothing_is_written(
    trained: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(trained)

    def interrupt(what: str, _share: float) -> None:
        if what.startswith("thresholds"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_exits(trained, replace(PLAN, steps=1), texts=[text], replace=True, report=interrupt)
    assert digests(trained) == before

    # Killed between two files: no index, so what there is is refused and not mixed.
    monkeypatch.setattr(places, "_put", lambda path, _target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learn_exits(trained, replace(PLAN, steps=1), texts=[text], replace=True)
    assert not (trained / "exits.json").exists()


def test_a_killed_run_leaves_what_was_there(trained: Path, text: Path) -> None:
    before = digests(trained)

    def kill(what: str, _share: float) -> None:
        if what.startswith("step 3"):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            learn_exits(trained, PLAN, texts=[text], replace=True, report=kill)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert digests(trained) == before


def refused(*command: str) -> str:
    result = RUN.invoke(app, ["tune-exits", *command])
    assert isinstance(result.exception, CommandError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_the_command_teaches_and_shows_what_came_of_it(
    bare: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command = ["tune-exits", str(bare), "--exits", "1,2", "--text", str(text)]
    result = RUN.invoke(app, [*command, "--steps", "2", "--tokens", "8", "--translator", "4"])
    assert result.exit_code == 0, result.output
    content = json.loads((bare / "translators.json").read_text())
    assert f"{content['curve'][-1]['exits']['1']['agreement']:.1%}" in result.output
    assert content["translator"] == "of rank 4"
    assert "exits.2.translator.up.weight" in read_header(bare / "exits.safetensors")
    # The thresholds alone, as for any exits.
    shutil.rmtree(text)
    assert "no .jsonl.xz" in refused(str(bare), str(text))


def test_what_cannot_be_done_is_one_line(bare: Path, text: Path, held_out: Path) -> None:
    model, teach = str(bare), ("--exits", "1,2")
    assert "has no exits" in refused(model, str(held_out))
    assert "name one" in refused(model)
    for unused in (["--self"], ["--copy"], ["--seed", "3"], ["--translator", "none"]):
        assert "--exits names" in refused(model, str(held_out), *unused)
    assert "given or" in refused(model, *teach)
    assert "no list" in refused(model, "--exits", "1;2", "--self")
    assert "1 to 3: 4 does not" in refused(model, "--exits", "4", "--self")
    assert "neither affine" in refused(model, *teach, "--self", "--translator", "wide")
    assert "another folder" in refused(model, *teach, "--self", "--copy")
    assert "no file of text" in refused(model, *teach, "--text", str(bare / "nowhere"))
    config = json.loads((bare / "config.json").read_text())
    config["architectures"] = ["MambaForCausalLM"]
    (bare / "config.json").write_text(json.dumps(config))
    assert "MambaForCausalLM is not supported" in refused(model, *teach, "--text", str(text))
