"""Traces of texts served: what is in them, and what keeps one from being written."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from services.edge.recording import Recorder, Recording, kind_of
from services.edge.settings import Settings
from shared.errors import Invalid
from shared.exits.policy import Asked
from shared.exits.signals import Signals
from shared.exits.traces import Trace, read_traces
from shared.protocol.messages import Sampling

START = 7
PRIVATE = 0o600


@dataclass
class Told:
    outcomes: list[str] = field(default_factory=list)

    def recorded(self, outcome: str) -> None:
        self.outcomes.append(outcome)


def said(layer: int, token: int) -> Asked:
    return Asked(layer, token, Signals(top=0.5, entropy=0.25 * layer, margin=0.125, sharp=0.0))


def recording(document: str = "a text") -> Recording:
    """Four tokens after a prompt of seven: the cloud chose the second, exits the others."""
    text = Recording("greedy", document)
    for place, (token, asked) in enumerate(
        [
            (1, [said(3, 1)]),
            (2, [said(3, 8), said(6, 9)]),
            (3, [said(3, 3)]),
            (4, [said(3, 5), said(6, 4)]),
        ]
    ):
        text.heard(START + place, asked)
        text.add(token)
    return text


def recorder(path: Path, told: Told, max_bytes: int = 1 << 20) -> Recorder:
    return Recorder(path, max_bytes, "f" * 8, [3, 6], told)


async def kept(path: Path, *texts: tuple[Recording, int], **given: Any) -> tuple[list[str], Told]:
    told = Told()
    keeps = recorder(path, told, **given)
    keeps.open()
    for text, wrong in texts:
        await keeps.keep(text, wrong)
    return lines_of(path), told


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def tokens_of(trace: Trace, layer: int) -> Sequence[int | None]:
    return trace.exits[layer].token


async def test_a_trace_says_what_exits_said_and_what_the_full_model_chose(tmp_path: Path) -> None:
    text = recording()
    text.judged({START: 20, START - 1: 30, START + 4: 40})
    text.ends(21)
    _, told = await kept(tmp_path / "t.jsonl", (text, 2))
    (trace,) = read_traces(tmp_path / "t.jsonl")
    assert told.outcomes == ["written"]
    assert (trace.model_fingerprint, trace.source, trace.kind) == ("f" * 8, "service", "greedy")
    assert trace.whole == (20, 2, 3, 21)
    assert tokens_of(trace, 3) == (1, 8, 3, 5)
    assert tokens_of(trace, 6) == (None, 9, None, 4)
    assert trace.exits[3].entropy == (0.75,) * 4
    assert trace.exits[6].top == (None, 0.5, None, 0.5)


async def test_texts_add_up_and_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "other"):  # the edge begins anew
        await kept(tmp_path / "t.jsonl", (recording(name), 0))
    traces = list(read_traces(tmp_path / "t.jsonl"))
    assert [trace.whole for trace in traces] == [(1, 2, 3, 4)] * 2
    assert len({trace.document for trace in traces}) == 2


async def test_turns_of_a_conversation_are_parts_of_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [recording(name) for name in ("one", "other", "one")]
    await kept(tmp_path / "t.jsonl", *((turn, 0) for turn in turns))
    first, other, second = (trace.document for trace in read_traces(tmp_path / "t.jsonl"))
    assert first == second != other
    assert first != blake2b(b"one", digest_size=8).hexdigest()
    monkeypatch.setattr("services.edge.recording._SALT", b"of another run")
    await kept(tmp_path / "again.jsonl", (turns[0], 0))
    (again,) = read_traces(tmp_path / "again.jsonl")
    assert again.document != first


async def test_a_last_token_that_is_right_is_no_other(tmp_path: Path) -> None:
    text = recording()
    text.ends(4)
    assert text.wrong == 0


async def test_what_was_told_of_another_text_is_not_recorded(tmp_path: Path) -> None:
    text, cut = recording(), recording()
    text.judged({START: 20})
    cut.add(5)
    lines, told = await kept(tmp_path / "t.jsonl", (text, 2), (text, 0), (cut, 0))
    assert told.outcomes == ["unclear"] * 3
    assert lines == []


async def test_a_file_is_filled_and_no_further(tmp_path: Path) -> None:
    lines, _ = await kept(tmp_path / "one.jsonl", (recording(), 0))
    room = 2 * len(lines[0]) + 2
    lines, told = await kept(tmp_path / "t.jsonl", *[(recording(), 0)] * 3, max_bytes=room)
    assert told.outcomes == ["written", "written", "full"]
    assert len(lines) == 2
    assert (tmp_path / "t.jsonl").stat().st_size == room


@pytest.mark.parametrize("there", [False, True], ids=["new", "readable before"])
async def test_only_its_owner_can_read_the_file(tmp_path: Path, *, there: bool) -> None:
    if there:
        (tmp_path / "t.jsonl").touch(0o644)
    await kept(tmp_path / "t.jsonl", (recording(), 0))
    assert mode_of(tmp_path / "t.jsonl") == PRIVATE


def test_no_link_to_another_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").touch(0o644)
    (tmp_path / "t.jsonl").symlink_to(tmp_path / "other.jsonl")
    with pytest.raises(Invalid, match="cannot be written"):
        recorder(tmp_path / "t.jsonl", Told()).open()
    assert mode_of(tmp_path / "other.jsonl") == 0o644


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_disk_that_fails_leaves_whole_lines_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()
    keeps = recorder(tmp_path / "t.jsonl", told)
    await keeps.keep(recording(), 0)
    whole = (tmp_path / "t.jsonl").read_bytes()

    class Short:
        """A file on a disk that is nearly full."""

        def __init__(self, *given: Any, **named: Any) -> None:
            self.file = open(*given, **named)  # noqa: SIM115 - closed by __exit__

        def __enter__(self) -> "Short":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, line: bytes) -> int:
            return int(self.file.write(line[:10]))

    with monkeypatch.context() as patch:
        patch.setattr("services.edge.recording.open", Short, raising=False)
        for _ in range(2):
            await keeps.keep(recording(), 0)
    assert (tmp_path / "t.jsonl").read_bytes() == whole
    await keeps.keep(recording(), 0)
    assert told.outcomes == ["written", "failed", "failed", "written"]
    assert [each.message for each in caplog.records] == ["exit traces cannot be written"]
    assert len(list(read_traces(tmp_path / "t.jsonl"))) == 2


async def test_what_makes_no_trace_is_not_quoted(tmp_path: Path) -> None:
    text = recording()
    text.said[0] = [Asked(3, -1, Signals(0.5, 0.5, 0.5, 0.5))]
    lines, told = await kept(tmp_path / "t.jsonl", (text, 0))
    assert (lines, told.outcomes) == ([], ["unclear"])


def test_a_file_that_cannot_be_written_is_said_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"exit_traces: .*cannot be written") as refused:
        recorder(tmp_path / "nowhere" / "t.jsonl", Told()).open()
    assert refused.value.field == "exit_traces"


def test_settings_ask_for_lines_and_for_somebody_who_judges() -> None:
    bundle = Path(os.devnull)
    for given, why in (
        ({"exit_traces": "t.jsonl", "audit_share": 0}, "audit_share must be over 0"),
        ({"exit_traces": "t.jsonl.xz"}, "a file whose name ends in .jsonl"),
        ({"exit_traces": "t.jsonl", "cloud_url": ""}, "they need a cloud_url"),
    ):
        with pytest.raises(ValueError, match=why):
            Settings(bundle=bundle, **given)
    assert Settings(bundle=bundle, exit_traces="").exit_traces is None


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, "greedy"),
        ({"top_p": 0.5}, "greedy"),
        ({"temperature": 1.0}, "sampled"),
        ({"temperature": 0.8}, None),
        ({"temperature": 1.5}, None),
        ({"temperature": 1.0, "top_p": 0.95}, None),
        ({"temperature": 1.0, "top_k": 5}, None),
        ({"temperature": 1.0, "min_p": 0.1}, None),
        ({"repetition_penalty": 1.1}, None),
        ({"min_new_tokens": 3}, None),
    ],
    ids=str,
)
def test_only_what_a_calibration_can_be_made_of_is_recorded(
    given: dict[str, Any], kind: str | None
) -> None:
    assert kind_of(Sampling(**given)) == kind
