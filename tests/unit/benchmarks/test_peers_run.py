"""The run over all peers: whose turn it is, on which core, and what the command prints."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.peers import cores, transformers_peer
from benchmarks.peers import run as running
from benchmarks.peers.__main__ import main
from benchmarks.peers.peer import Absent, Answered, Length, Peer
from benchmarks.peers.run import Plan, Report, read_prompts
from cli.errors import CommandError
from cli.partition import SHIPPED_MODEL


@pytest.fixture(autouse=True)
def _cores_and_threads() -> Iterator[None]:
    usable, threads = os.sched_getaffinity(0), torch.get_num_threads()
    yield
    os.sched_setaffinity(0, usable)
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Told:
    """A peer that notes when it is asked."""

    name: str
    core: int
    calls: list[tuple[object, ...]]

    def answer(self, ids: Sequence[int], length: Length) -> Answered:
        self.calls.append((self.name, tuple(ids), length.new_tokens))
        return Answered([1, 2], 0.5, [0.25], 0.75)


def test_peers_take_turns_each_on_its_core(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    @contextmanager
    def peers(_: Plan) -> Iterator[list[Peer | Absent]]:
        yield [Told("a", 4, calls), Absent("c", "none here"), Told("b", 5, calls)]

    monkeypatch.setattr(running, "_peers", peers)
    monkeypatch.setattr(running, "stay_on", lambda core: calls.append(("core", core)))
    plan = Plan(
        model=Path(), prompts=[[1], [2]], length=Length(9, ()), repeats=2, early_exit=1,
        core=4, edge_core=5,
    )  # fmt: skip
    told = [report.to_json() for report in running.run(plan)]
    one = [("core", 4), ("a", (1,), 9), ("core", 5), ("b", (1,), 9)]
    turn = [
        ("core", 4), ("a", (1,), 9), ("a", (2,), 9), ("core", 5), ("b", (1,), 9), ("b", (2,), 9),
    ]  # fmt: skip
    assert calls == [("core", 4), *one, *turn, *turn]
    assert [(each["peer"], each["absent"]) for each in told] == [
        ("a", None), ("b", None), ("c", "none here"),
    ]  # fmt: skip
    answer = {"ids": [1, 2], "ttft_s": 0.5, "gaps_s": [0.25], "total_s": 0.75}
    assert told[0]["repeats"] == [{"total_s": 1.5, "requests": [answer, answer]}] * 2
    assert told[2]["repeats"] == []
    assert torch.get_num_threads() == 1


def command(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, list(arguments))


def prompt_file(tmp_path: Path, content: object) -> str:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_the_command_prints_every_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    core = max(os.sched_getaffinity(0))
    prompts = prompt_file(tmp_path, [{"prompt": "x", "ids": [0, 40, 50]}])
    options = ("--new-tokens", "3", "--repeats", "2", "--core", str(core))
    result = command("--prompts", prompts, *options)
    assert result.exit_code == 0, result.output
    told = {each["peer"]: each for each in json.loads(result.stdout)}
    assert os.sched_getaffinity(0) == {core}
    assert list(told) == [
        "transformers generate", "transformers early exit", "llama.cpp cloud", "llama.cpp edge",
    ]  # fmt: skip
    (plain, _) = transformers_peer.load(SHIPPED_MODEL, core=0, early_exit=3)
    expected = plain.answer([0, 40, 50], Length(3, (1,))).ids
    for name in ("transformers generate", "transformers early exit"):
        assert told[name]["absent"] is None
        assert [[r["ids"] for r in run["requests"]] for run in told[name]["repeats"]] == [
            [expected],
            [expected],
        ]
    assert "pip install" in told["llama.cpp edge"]["absent"]


def test_options_become_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []

    def noted(plan: Plan) -> list[Report]:
        plans.append(plan)
        return []

    monkeypatch.setattr(running, "run", noted)
    prompts = prompt_file(tmp_path, [{"prompt": "x", "ids": [4, 5]}, {"prompt": "y", "ids": [6]}])
    core, other = cores.chosen(None, None)
    assert command("--prompts", prompts, "--core", str(core)).exit_code == 0
    assert os.sched_getaffinity(0) == {core}  # before torch was there to start threads
    out = tmp_path / "out.json"
    options = ("--core", str(core), "--edge-core", "9", "--early-exit", "6", "--repeats", "5")
    more = ("--may-end", "--new-tokens", "7", "--json", str(out))
    result = command("--prompts", prompts, *options, *more)
    assert result.stdout == ""
    assert json.loads(out.read_text()) == []
    assert plans == [
        Plan(SHIPPED_MODEL, [[4, 5], [6]], Length(32, (1,)), 3, 3, core=core, edge_core=other),
        Plan(
            SHIPPED_MODEL, [[4, 5], [6]], Length(7, (1,), exactly=False), 5, 6,
            core=core, edge_core=9,
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", [{}, [], [{"prompt": "x"}], [{"ids": []}], [{"ids": ["a"]}], [3]]
)
def test_a_file_of_no_prompts_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"prompts\.json"):
        read_prompts(Path(prompt_file(tmp_path, content)))


def test_the_command_says_in_a_line_what_is_wrong(tmp_path: Path) -> None:
    result = command("--prompts", str(tmp_path / "none.json"))
    assert result.exit_code == 1
    assert "none.json" in result.stderr
    assert result.stdout == ""


def test_a_core_that_is_not_there_is_refused() -> None:
    with pytest.raises(CommandError, match="no core 4095"):
        cores.stay_on(4095)


def test_cores_not_named_are_the_last_and_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 7})
    assert cores.chosen(None, None) == (7, 2)
    assert cores.chosen(2, None) == (2, 3)
    assert cores.chosen(9, 5) == (9, 5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert cores.chosen(1, None) == (1, 0)  # a parent that stays on 0 hands that down
    assert cores.chosen(None, None) == (0, 0)
