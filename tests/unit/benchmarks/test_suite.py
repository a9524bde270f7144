"""The whole run in order, with nothing real beneath it: what is started, asked and written."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import suite
from benchmarks.cells import Cell
from benchmarks.client import Answer
from benchmarks.deployments import DEPLOYMENTS, Deployment
from benchmarks.measure import Answers, Workload
from benchmarks.rows import Row, load
from benchmarks.sampling import Sampling
from benchmarks.suite import Outcome, Plan, run
from cli.partition import SHIPPED_MODEL
from shared.decoding.sampling import SamplingParameters
from tests.support.benchmark_rows import row

SAMPLED = Sampling(0.8, 0.95, 5)


@dataclass
class _World:
    """What was done instead of measuring."""

    started: list[bool] = field(default_factory=list)
    workloads: list[Workload] = field(default_factory=list)
    models: list[SamplingParameters] = field(default_factory=list)
    measured: list[tuple[str, list[str]]] = field(default_factory=list)
    peers: int = 0

    @contextmanager
    def stack(self, *_: object, paced: bool, **__: object) -> Iterator[None]:
        self.started.append(paced)
        yield

    def full_model(self, folder: Path, parameters: SamplingParameters) -> None:
        self.models.append(parameters)

    def peer_rows(self, *_: object, **__: object) -> list[Row]:
        self.peers += 1
        return []

    def bench(self, stack: object, workload: Workload, model: object, tell: object) -> "_Bench":
        self.workloads.append(workload)
        return _Bench(self)


@dataclass
class _Bench:
    world: _World

    def warm_up(self, deployments: Sequence[Deployment]) -> None:
        assert set(DEPLOYMENTS) == {each.name for each in deployments}

    def offloaded(self, deployment: Deployment) -> float:
        return float(str(deployment.parameters["threshold"]))

    def cell(
        self, cell: Cell, deployments: Sequence[Deployment], *, repeats: int
    ) -> tuple[list[Row], Answers]:
        names = [each.name for each in deployments]
        self.world.measured.append((str(cell), names))
        place = {"setup": cell.setup, "rtt_ms": cell.rtt_ms, "mbit": cell.mbit}
        answers: dict[str, list[list[Answer]]] = {name: [[]] for name in names}
        return [row(deployment=name, **place) for name in names], answers


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> _World:
    made = _World()
    monkeypatch.setattr(suite, "stack", made.stack)
    monkeypatch.setattr(suite, "FullModel", made.full_model)
    monkeypatch.setattr(suite, "peer_rows", made.peer_rows)
    monkeypatch.setattr(suite, "Bench", made.bench)
    monkeypatch.setattr(suite, "make_bundles", lambda *_, **__: None)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    return made


def _plan(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        "model": SHIPPED_MODEL, "prompts": [], "new_tokens": 9, "sampling": Sampling(),
        "repeats": 1, "quick": True, "cells": None, "tell": lambda _: None, "save": lambda _: None,
    }  # fmt: skip
    return Plan(**{**given, **changes})


def test_both_set_ups_measure_every_deployment(world: _World) -> None:
    run(_plan())
    assert world.started == [False, True]
    cells = [cell for cell, _ in world.measured]
    assert cells[:2] == ["real, loopback", "paced, loopback"]
    assert len(cells) == 6
    assert all(set(names) == set(DEPLOYMENTS) for _, names in world.measured)
    assert {name for name in DEPLOYMENTS if name.startswith("verified")} == {
        "verified", "verified, quarter", "verified, fastest", "verified, ids", "verified, blocks",
    }  # fmt: skip


def test_a_set_up_without_a_network_to_measure_is_not_started(world: _World) -> None:
    run(_plan(cells=[Cell("real", 3.0, 30.0)]))
    assert world.started == [False]
    assert [cell for cell, _ in world.measured] == ["real, loopback", "real, 3 ms, 30 Mbit/s"]


def test_services_and_full_model_choose_alike(world: _World) -> None:
    run(_plan(sampling=SAMPLED))
    assert [each.sampling for each in world.workloads] == [SAMPLED, SAMPLED]
    (parameters,) = world.models
    assert (parameters.temperature, parameters.top_p) == (0.8, 0.95)
    assert parameters.min_new_tokens == 9
    assert parameters.eos_ids, "the end of the text is held back"


def test_peers_are_greedy_and_have_no_place_beside_a_sampled_run(world: _World) -> None:
    run(_plan(sampling=SAMPLED))
    assert world.peers == 0
    run(_plan())
    assert world.peers == 1


def _command(monkeypatch: pytest.MonkeyPatch, out: Path, *options: str) -> tuple[Any, list[Plan]]:
    plans: list[Plan] = []

    def measured(plan: Plan) -> Outcome:
        plans.append(plan)
        told = plan.sampling
        chosen = {"temperature": told.temperature, "top_p": told.top_p, "seed": told.seed}
        return Outcome([row(**chosen), row(**chosen, deployment="x", total_s=3.0)])

    monkeypatch.setattr(command, "run", measured)
    app = Typer()
    app.command()(command.main)
    return CliRunner().invoke(app, ["--out", str(out), *options]), plans


def test_the_account_of_a_run_says_how_tokens_were_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ("--temperature", "0.8", "--top-p", "0.95", "--seed", "5")
    done, (plan,) = _command(monkeypatch, tmp_path, *options)
    assert done.exit_code == 0, done.output
    assert plan.sampling == SAMPLED
    about = json.loads((tmp_path / "about.json").read_text())
    assert about["sampling"] == {"temperature": 0.8, "top_p": 0.95, "seed": 5}
    assert {(each.temperature, each.seed) for each in load(tmp_path / "latest.json")} == {(0.8, 5)}
    assert "temperature 0.8, top-p 0.95, seed 5" in (tmp_path / "latest.md").read_text()
    again, (plan,) = _command(monkeypatch, tmp_path)
    assert plan.sampling == Sampling()
    # The sampled rows before it are no reference.
    assert "not compared with the rows before" in again.stderr


def test_a_seed_without_a_temperature_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done, plans = _command(monkeypatch, tmp_path, "--seed", "5")
    assert "--temperature" in str(done.exception)
    assert not plans
