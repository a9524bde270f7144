"""Sampled runs: every deployment is asked alike, and the full model chooses with the same seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import measure
from benchmarks.cells import Cell
from benchmarks.client import Answer
from benchmarks.deployments import DEPLOYMENTS
from benchmarks.measure import Bench, Workload, judged, paired
from benchmarks.network.calibrate import Measured
from benchmarks.prompts import Prompt
from benchmarks.sampling import Sampling
from cli.errors import CommandError
from shared.decoding.sampling import SamplingParameters

SAMPLED = Sampling(0.8, 0.95, 5)
PROMPTS = [Prompt("one", (1, 2)), Prompt("other", (3, 4, 5))]
CHOSEN = [DEPLOYMENTS[name] for name in ("cloud-only", "verified", "CE-CoLLM 0.8")]
ANSWER = Answer(
    ids=(7, 8), text="a text", sources=("cloud", "exit:3"), prompt_tokens=2, total_s=1.0,
    ttft_s=0.4, gaps_s=(0.6,), edge_s=0.3, cloud_s=0.2, network_s=0.1, cloud_requests=1,
    bytes_up=10, bytes_down=10, wire_up=20, wire_down=20,
)  # fmt: skip


@dataclass
class _Judge:
    """Stands for the full model; keeps what it is asked."""

    seeds: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    def agreeing(self, prompt: Sequence[int], tokens: Sequence[int], *, seed: int) -> int:
        self.seeds.append((tuple(prompt), seed))
        return len(tokens)


@dataclass
class _Asked:
    """Stands for the services; every further answer takes a second longer."""

    parameters: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def __call__(
        self, stack: object, client: object, edge: str, prompt: str, parameters: Mapping[str, Any]
    ) -> Answer:
        self.parameters.append((prompt, parameters))
        return replace(ANSWER, total_s=float(len(self.parameters)))

    def sampling(self) -> dict[str, set[tuple[Any, ...]]]:
        """What each prompt was asked with."""
        keys = ("temperature", "top_p", "seed")
        found: dict[str, set[tuple[Any, ...]]] = {}
        for prompt, parameters in self.parameters:
            found.setdefault(prompt, set()).add(tuple(parameters.get(key) for key in keys))
        return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> _Asked:
    fake = _Asked()
    monkeypatch.setattr(measure, "ask", fake)
    return fake


def _bench(sampling: Sampling) -> tuple[Bench, _Judge]:
    judge = _Judge()
    network = SimpleNamespace(emulate=lambda shape: Measured(3.1, 30.0, 30.0))
    workload = Workload(PROMPTS, 2, {"quarter": (3, 6), "late": (5, 6)}, sampling)
    stack = cast("Any", SimpleNamespace(network=network))
    return Bench(stack, workload, cast("Any", judge), lambda _: None), judge


def test_every_deployment_is_asked_with_one_seed_for_each_prompt(asked: _Asked) -> None:
    bench, judge = _bench(SAMPLED)
    rows, _ = bench.cell(Cell("paced", 3.0, 30.0), CHOSEN, repeats=2)
    assert len(asked.parameters) == 2 * len(PROMPTS) * len(CHOSEN)
    seeds = [SAMPLED.seed_of(number) for number in range(len(PROMPTS))]
    expected = {"one": {(0.8, 0.95, seeds[0])}, "other": {(0.8, 0.95, seeds[1])}}
    assert asked.sampling() == expected
    assert set(judge.seeds) == {((1, 2), seeds[0]), ((3, 4, 5), seeds[1])}
    assert {(row.temperature, row.top_p, row.seed) for row in rows} == {(0.8, 0.95, 5)}


def test_thresholds_are_looked_for_and_everything_is_warmed_up_alike(asked: _Asked) -> None:
    bench, _ = _bench(SAMPLED)
    bench.offloaded(CHOSEN[2])
    bench.cell(Cell("paced", 3.0, 30.0), CHOSEN[:1], repeats=1)
    assert {len(found) for found in asked.sampling().values()} == {1}
    asked.parameters.clear()
    bench.warm_up(CHOSEN)
    assert asked.sampling() == {"one": {(0.8, 0.95, SAMPLED.seed_of(0))}}
    assert {told["max_new_tokens"] for _, told in asked.parameters} == {measure.WARM_UP_TOKENS}


def test_a_greedy_run_names_no_sampling(asked: _Asked) -> None:
    bench, judge = _bench(Sampling())
    (row, *_), _ = bench.cell(Cell("paced", 3.0, 30.0), CHOSEN, repeats=1)
    assert asked.sampling() == {"one": {(None,) * 3}, "other": {(None,) * 3}}
    assert not any("seed" in told for _, told in asked.parameters)
    assert {seed for _, seed in judge.seeds} == {0}
    assert (row.temperature, row.top_p, row.seed) == (0.0, 1.0, None)


def test_times_are_held_against_cloud_onlys_for_the_same_prompt_and_repeat(asked: _Asked) -> None:
    bench, _ = _bench(Sampling())
    rows, _ = bench.cell(Cell("paced", 3.0, 30.0), CHOSEN, repeats=2)
    base, verified, _ = rows
    assert (base.ratio_paired, base.ratio_low, base.ratio_high) == (1.0, 1.0, 1.0)
    # Cloud-only took 1, 4, 7 and 10 s, the next one a second more each time.
    ratios = [8 / 7, 5 / 4]
    assert verified.ratio_paired == pytest.approx(sum(ratios) / 2)
    assert (verified.ratio_low, verified.ratio_high) == pytest.approx((11 / 10, 2 / 1))


def test_pairs_are_of_one_repeat_and_none_is_dropped() -> None:
    for seconds in permutations([(1.0, 2.0), (10.0, 5.0), (2.0, 3.0)]):
        whole, runs = (
            [[replace(ANSWER, total_s=t)] for t in each] for each in zip(*seconds, strict=True)
        )
        assert paired(runs, whole) == {"ratio_paired": 1.5, "ratio_low": 0.5, "ratio_high": 2.0}
    with pytest.raises(ValueError, match="zip"):
        paired(runs[:2], whole)
    with pytest.raises(ValueError, match="zip"):
        paired([[ANSWER, ANSWER]], [[ANSWER]])


def test_a_prompts_seed_is_made_from_the_runs_and_its_number() -> None:
    seeds = {Sampling(0.8, 1.0, run).seed_of(number) for run in range(20) for number in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**64 for seed in seeds)
    # Runs of other days and machines must give the same texts.
    assert Sampling(0.8, 1.0, 5).seed_of(3) == 12449168470066559583
    answers = judged(PROMPTS, [ANSWER, ANSWER], SAMPLED)
    assert [each.seed for each in answers] == [SAMPLED.seed_of(0), SAMPLED.seed_of(1)]


def test_the_full_model_chooses_as_requests_ask() -> None:
    assert SAMPLED.of_model(40, [0, 2]) == SamplingParameters(
        temperature=0.8, top_p=0.95, min_new_tokens=40, eos_ids=(0, 2)
    )


def test_what_is_not_given_has_a_default_only_where_it_has_an_effect() -> None:
    assert Sampling.asked(0.0, None, None) == Sampling()
    assert Sampling.asked(0.8, None, None) == Sampling(0.8, 1.0, 0)
    assert Sampling.asked(0.8, 0.95, 5) == SAMPLED


@pytest.mark.parametrize(
    ("temperature", "top_p", "seed", "named"),
    [
        (0.0, 0.9, None, "--temperature"),
        (0.0, None, 5, "--temperature"),
        (0.0, None, 0, "--temperature"),
        (0.8, 0.0, None, "top_p"),
        (0.8, 1.5, None, "top_p"),
        (-1.0, None, None, "temperature"),
        (float("nan"), None, None, "temperature"),
    ],
)
def test_sampling_that_cannot_be_or_has_no_effect_is_refused(
    temperature: float, top_p: float | None, seed: int | None, named: str
) -> None:
    with pytest.raises(CommandError, match=named):
        Sampling.asked(temperature, top_p, seed)
