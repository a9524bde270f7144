"""Traces say what the exits say along the full model's own text, with drafters in their place."""

import json
import lzma
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer import BadParameter

from shared.decoding.sampling import PrefixState, sample
from shared.errors import BadModel
from shared.exits.calibration import TEXTS, file_of, read_agreement
from shared.exits.traces import ExitTrace, Trace, read_traces, write_traces
from shared.model import Segment
from shared.model.exits import drafter_files, exits_sha256
from training.__main__ import calibrate, recalibrate
from training.evaluation import tracing
from training.evaluation.reading import Reader, identity
from training.evaluation.recorded import usable
from training.evaluation.tracing import trace_checkpoint
from training.evaluation.tuning import held_out_prompts, independent
from training.evaluation.writing import DRAWN


def test_a_trace_is_what_the_exits_say_of_the_full_models_text(
    trained: Path, held_out: Path
) -> None:
    reader = Reader(trained)
    traces = [found[None] for found in trace_checkpoint(trained, held_out, tokens=8)]
    assert traces
    for trace in traces[:3]:
        number = int(trace.document.removeprefix("questions-"))
        prompt = reader.ids(_prompt(held_out, number))
        answer = reader.continuations([prompt], 8)[0]
        assert trace.whole == tuple(answer)
        said = reader.read([*prompt, *answer]).at(len(prompt) - 1, len(prompt) + len(answer) - 1)
        for row, layer in enumerate(reader.exits):
            assert trace.exits[layer].token == tuple(said.choices[row].tolist())
            torch.testing.assert_close(
                torch.tensor(trace.exits[layer].top), said.confidence[row], atol=1e-5, rtol=0
            )


def test_drawn_text_is_the_full_models_and_everybody_draws_alike(
    trained: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_GROUP", 2)  # so that there are several
    reader = Reader(trained)
    traces = [
        found[None] for found in trace_checkpoint(trained, held_out, text="sampled", tokens=8)
    ]
    greedy = [found[None] for found in trace_checkpoint(trained, held_out, tokens=8)]
    assert {trace.kind for trace in traces} == {"sampled"}
    assert [trace.whole for trace in traces] != [trace.whole for trace in greedy]
    for seed, trace in enumerate(traces[:5]):
        prompt = reader.ids(_prompt(held_out, int(trace.document.removeprefix("questions-"))))
        assert list(trace.whole) == reader.continuations([prompt], 8, DRAWN, seed=seed)[0]
        ids = [*prompt, *trace.whole[:-1]]
        with reader.model.new_cache() as cache:
            (states,) = reader.model.forward(
                [Segment(cache, 0, reader.exits[0], 0, torch.tensor(ids), None)]
            )
        logits = reader.model.exit_logits(reader.exits[0], states[len(prompt) - 1 :])
        state = PrefixState.start(prompt)
        drawn = [
            sample(row, state, DRAWN, seed=seed, index=0, position=len(prompt) + place).token
            for place, row in enumerate(logits)
        ]
        assert list(trace.exits[reader.exits[0]].token) == drawn
        torch.testing.assert_close(
            torch.tensor(trace.exits[reader.exits[0]].top),
            logits.softmax(dim=-1).amax(dim=-1),
            atol=1e-5,
            rtol=0,
        )


def test_prompts_about_one_passage_are_one_document() -> None:
    passage = list(range(100, 145))
    prompts = [[1, 2, *passage], [3, *passage, 4], passage[:39], [*range(60)], [5] * 3]
    assert [number for number, _ in independent(prompts)] == [0, 2, 3, 4]


def test_prompts_of_no_token_are_passed_over(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "asked.jsonl.xz", "wt") as file:
        file.writelines(json.dumps({"prompt": prompt}) + "\n" for prompt in ("", "ab", "too long"))
    found = held_out_prompts(tmp_path, lambda text: [1] * len(text), most=-1, longest=5)
    assert found == {"asked": [[1, 1]]}


def test_a_drafter_that_is_not_there_is_refused(trained: Path, held_out: Path) -> None:
    with pytest.raises(BadModel, match="no drafter for split 1 and edge depth 2"):
        next(trace_checkpoint(trained, held_out, cuts=[(1, 2)]))


def test_one_command_leaves_traces_and_agreement(
    trained: Path, held_out: Path, tmp_path: Path
) -> None:
    calibrate(trained, held_out, traces=tmp_path / "traces", tokens=8)
    written = (trained / "agreement.json").read_text()
    assert json.loads((trained / "agreement-sampled.json").read_text())["text"] == "sampled"
    assert len(list(read_traces(tmp_path / "traces" / "traces.jsonl.xz"))) >= 4
    (trained / "agreement.json").unlink()
    calibrate(trained, held_out, traces=tmp_path / "traces", reuse=True)
    assert (trained / "agreement.json").read_text() == written
    with pytest.raises(BadParameter, match="name that folder"):
        calibrate(trained, held_out, reuse=True)
    with (trained / "exits.safetensors").open("ab") as weights:
        weights.write(b" ")
    with pytest.raises(BadParameter, match="traces of other exits"):
        calibrate(trained, held_out, traces=tmp_path / "traces", reuse=True)


def test_what_an_edge_recorded_calibrates_its_exits(trained: Path, tmp_path: Path) -> None:
    recorded, weights = tmp_path / "recorded.jsonl", identity(trained)
    made = {
        text: traces(8, weights, text, spoke=exits_sha256(trained))
        for text in ("greedy", "sampled")
    }
    write_traces(recorded, [trace for pair in zip(*made.values(), strict=True) for trace in pair])
    recalibrate(trained, recorded)
    for text in TEXTS:
        written = read_agreement(trained / file_of(text=text))
        assert written is not None
        assert (written.text, written.model_fingerprint, written.layers) == (text, weights, [1, 2])
    apart = read_agreement(trained / file_of())
    write_traces(recorded, made["greedy"])
    recalibrate(trained, recorded)
    assert read_agreement(trained / file_of()) == apart


@pytest.mark.parametrize("with_drafter", [False, True])
def test_a_recording_says_whose_exits_it_calibrates(
    trained: Path, tmp_path: Path, *, with_drafter: bool
) -> None:
    recorded = tmp_path / "recorded.jsonl"
    for file in drafter_files(trained, 1, 2):
        file.write_text("{}")
    cut = (1, 2) if with_drafter else None
    spoke = exits_sha256(trained, cut)
    assert spoke != exits_sha256(trained, None if with_drafter else (1, 2))
    write_traces(recorded, traces(8, identity(trained), "greedy", spoke=spoke))
    recalibrate(trained, recorded)
    written = read_agreement(trained / file_of(cut))
    assert written is not None
    assert written.exits_sha256 == spoke
    assert [path.name for path in trained.glob("agreement*")] == [file_of(cut)]


def test_texts_that_say_too_little_or_nothing_new_do_not_count(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded, alone = tmp_path / "recorded.jsonl", tmp_path / "alone.jsonl"
    full = traces(8, identity(trained), "greedy", spoke=exits_sha256(trained))
    partial = traces(2, identity(trained), "greedy", spoke="ab", unasked=True)
    again = [replace(full[0], document=f"again-{n}") for n in range(3)]
    write_traces(alone, full)
    recalibrate(trained, alone)
    apart = read_agreement(trained / file_of())
    write_traces(recorded, [*partial, *full, *again])
    recalibrate(trained, recorded)
    assert read_agreement(trained / file_of()) == apart
    told = " ".join(capsys.readouterr().out.split())
    assert "8 texts of 8 conversations; left out: 2 in which" in told
    assert "3 repeated" in told


def test_a_conversation_keeps_turns_that_others_have_too() -> None:
    easy, one, other = traces(3, "ab", "greedy", spoke="cd")
    talks = {"a": [easy, one], "b": [easy, other, easy], "again": [easy, one]}
    lines = [replace(turn, document=name) for name, turns in talks.items() for turn in turns]
    found = usable(lines)
    assert [trace.document for trace in found.traces] == ["a", "a", "b", "b"]
    assert (found.documents, found.partial, found.repeated) == (2, 0, 3)


@pytest.mark.parametrize(
    ("weights", "spoke", "unasked", "why"),
    [
        ("ab", None, False, "with another model"),
        (None, "ab", False, "do not lie beside"),
        (None, None, True, "no text in which every exit"),
    ],
)
def test_recordings_that_do_not_fit_are_refused(
    trained: Path,
    tmp_path: Path,
    weights: str | None,
    spoke: str | None,
    why: str,
    *,
    unasked: bool,
) -> None:
    recorded = tmp_path / "recorded.jsonl"
    spoke = spoke or exits_sha256(trained)
    made = traces(8, weights or identity(trained), "greedy", unasked=unasked, spoke=spoke)
    write_traces(recorded, made)
    with pytest.raises(BadParameter, match=why):
        recalibrate(trained, recorded)


def traces(
    count: int, weights: str, text: str, *, spoke: str | None, unasked: bool = False
) -> list[Trace]:
    """Documents whose exits are right wherever they are sure; each ends in a word of its own."""
    made = []
    for number in range(count):
        sure = [(number + place) % 3 / 2 for place in range(6)]
        said = {
            layer: ExitTrace(
                token=tuple(7 if each > 0.4 else 8 for each in sure),
                top=tuple(0.5 + each / 4 for each in sure),
                entropy=tuple(1 - each / 2 for each in sure),
                margin=tuple(each / 2 for each in sure),
                sharp=tuple(0.5 - each / 4 for each in sure),
            )
            for layer in (1, 2)
        }
        if unasked:
            nothing = (None,) * 6
            said[2] = ExitTrace(
                token=nothing, top=nothing, entropy=nothing, margin=nothing, sharp=nothing
            )
        made.append(
            Trace(
                model_fingerprint=weights,
                exits_sha256=spoke,
                document=f"d-{number}",
                source="service",
                kind=text,
                whole=(*(7,) * 5, 9 + number),
                exits=said,
            )
        )
    return made


def _prompt(held_out: Path, number: int) -> str:
    from training.text.corpus import read_rows

    return list(read_rows(held_out / "questions.jsonl.xz"))[number]["prompt"]
