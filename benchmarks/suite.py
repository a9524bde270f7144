"""The whole benchmark in order: both set-ups, every network, every deployment, the peers.

Thresholds that are to match a share of offloaded tokens are found first, on the real set-up, where
a token is quick; the paced one makes the same tokens.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from benchmarks.cells import Cell, Setup, full, loopback, quick, relative
from benchmarks.client import Answer
from benchmarks.deployments import DEPLOYMENTS, Deployment
from benchmarks.matching import threshold_for
from benchmarks.measure import Answers, Bench, Workload, judged
from benchmarks.paced.model import LATE
from benchmarks.peer_rows import peer_rows
from benchmarks.prompts import Prompt
from benchmarks.rows import CLOUD_ONLY, Row
from benchmarks.sampling import Sampling
from benchmarks.stack import Cores, EdgeKind, cores_here, stack
from cli.full_model import FullModel
from cli.partition import exits_beside, make_bundles
from services.edge.text import TextCodec

LOOPBACK_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Args:
        repeats: runs of every cell; of real compute on loopback at least LOOPBACK_REPEATS, where a
            run is short and the machine's own noise shows.
        cells: networks to measure on instead of the quick or full grid; real compute on loopback
            is always measured, where thresholds are matched.
        save: told the rows so far after every cell, so that a run cut short has not been for
            nothing.
    """

    model: Path
    prompts: Sequence[Prompt]
    new_tokens: int
    sampling: Sampling
    repeats: int
    quick: bool
    cells: Sequence[Cell] | None
    tell: Callable[[str], None]
    save: Callable[["Outcome"], None]

    def of(self, setup: Setup, grid: Sequence[Cell]) -> Sequence[Cell]:
        """The networks of a set-up: of `grid`, unless some were asked for."""
        return grid if self.cells is None else [c for c in self.cells if c.setup == setup]


@dataclass(slots=True)
class Outcome:
    """What came of it: rows, and per deployment where each token of each prompt came from (of the
    paced set-up's first run), which is what a simulation replays. `late_steps` counts the paced
    steps whose real computation took longer than their price.
    """

    rows: list[Row] = field(default_factory=list)
    traces: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    late_steps: int = 0


def run(plan: Plan) -> Outcome:
    """Run everything."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as name:
        house = _House.build(plan, Path(name))
        with house.bench("real") as bench:
            deployments = _matched(bench, plan.tell)
            bench.warm_up(deployments)
            base = _measure(bench, [loopback("real")], deployments, plan, outcome)
            step = _full_step(outcome.rows)
            real = [] if plan.quick else [*relative(step), *full("real")]
            _measure(bench, plan.of("real", real), deployments, plan, outcome)
        outcome.rows += _peers(house, base)
        paced = [loopback("paced"), *(quick if plan.quick else full)("paced")]
        if cells := plan.of("paced", paced):
            with house.bench("paced") as bench:
                bench.warm_up(deployments)
                _measure(bench, cells, deployments, plan, outcome)
        outcome.late_steps = house.late_steps()
    return outcome


def cuts_of(model: Path) -> Mapping[str, tuple[int, int]]:
    """(split, edge depth) of each cut of a checkpoint."""
    quarter = exits_beside(model)
    last = quarter[1]
    return {"quarter": quarter, "late": (last - 1, last), "half": (last, last)}


@dataclass(frozen=True, slots=True)
class _House:
    """Bundles, cores and the full model: what every set-up of a run has in common."""

    plan: Plan
    folder: Path
    cuts: Mapping[str, tuple[int, int]]
    cores: Cores
    model: FullModel

    @classmethod
    def build(cls, plan: Plan, folder: Path) -> "_House":
        cuts = cuts_of(plan.model)
        for cut, (split, edge_depth) in cuts.items():
            make_bundles(plan.model, folder / cut, split=split, edge_depth=edge_depth)
        cores = cores_here()
        # The judge and the user's client stay off the cloud's core.
        os.sched_setaffinity(0, {cores.edge})
        # The judge runs between measurements, on a core it shares with the edge.
        torch.set_num_threads(1)
        parameters = plan.sampling.of_model(plan.new_tokens, TextCodec(plan.model).eos_ids)
        model = FullModel(plan.model, parameters)
        return cls(plan, folder, cuts, cores, model)

    @contextmanager
    def bench(self, setup: Setup) -> Iterator[Bench]:
        """A running set-up to measure on."""
        kinds = {each.edge: each for each in DEPLOYMENTS.values()}
        edges = [
            EdgeKind(n, self.folder / d.cut / "edge", d.resend, d.settings, d.in_cloud)
            for n, d in kinds.items()
        ]
        plan = self.plan
        workload = Workload(plan.prompts, plan.new_tokens, self.cuts, plan.sampling)
        logs = self.folder / setup
        logs.mkdir()
        plan.tell(f"starting the {setup} set-up")
        with stack(
            self.folder / "quarter" / "cloud",
            edges,
            cores=self.cores,
            paced=setup == "paced",
            logs=logs,
        ) as running:
            yield Bench(running, workload, self.model, plan.tell)

    def late_steps(self) -> int:
        """Paced steps that took longer than their price, by the services' logs."""
        logs = (self.folder / "paced").glob("*.log")
        return sum(log.read_text(errors="replace").count(LATE) for log in logs)


def _peers(house: _House, base: Answers) -> list[Row]:
    """Other people's software beside cloud-only's answers `base`."""
    plan = house.plan
    if plan.sampling.temperature:
        plan.tell("no peers: they do not sample with our noise")
        return []
    plan.tell("peers")
    return peer_rows(
        plan.model,
        plan.prompts,
        house.model,
        whole=judged(plan.prompts, base[CLOUD_ONLY][0]),
        new_tokens=plan.new_tokens,
        repeats=max(plan.repeats, LOOPBACK_REPEATS),
        cores=house.cores,
        tell=plan.tell,
    )


def _matched(bench: Bench, tell: Callable[[str], None]) -> list[Deployment]:
    """The deployments with every threshold given."""
    found: list[Deployment] = []
    for each in DEPLOYMENTS.values():
        if each.matched is None:
            found.append(each)
            continue
        tell(f"{each.name}: looking for the threshold")
        found.append(each.at(threshold_for(each.matched, partial(_offloaded, bench, each))))
    return found


def _offloaded(bench: Bench, deployment: Deployment, threshold: float) -> float:
    return bench.offloaded(deployment.at(threshold))


def _measure(
    bench: Bench,
    cells: Sequence[Cell],
    deployments: Sequence[Deployment],
    plan: Plan,
    outcome: Outcome,
) -> Answers:
    """Measure the cells in turn; the answers of the last one."""
    answers: Answers = {}
    for cell in cells:
        often = cell == loopback("real") and plan.cells is None
        least = LOOPBACK_REPEATS if often else 1
        rows, answers = bench.cell(cell, deployments, repeats=max(plan.repeats, least))
        outcome.rows += rows
        if cell.setup == "paced" and not outcome.traces:
            outcome.traces = {name: _trace(runs[0]) for name, runs in answers.items()}
        plan.save(outcome)
    return answers


def _trace(answers: Sequence[Answer]) -> list[dict[str, object]]:
    return [
        {"prompt_tokens": each.prompt_tokens, "sources": list(each.sources)} for each in answers
    ]


def _full_step(rows: Sequence[Row]) -> float:
    """Seconds of the full model's step on this machine: what cloud-only takes a token."""
    (row,) = (each for each in rows if each.deployment == CLOUD_ONLY)
    return row.itl_p50_s
