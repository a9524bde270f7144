"""The benchmark on real processes: what it says of a cell is what happened there."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cells import Cell
from benchmarks.client import Answer
from benchmarks.deployments import DEPLOYMENTS
from benchmarks.measure import Bench, Workload
from benchmarks.paced.prices import PAPER_HIDDEN, paper_prices
from benchmarks.prompts import SHIPPED, read
from benchmarks.rows import Row
from benchmarks.sampling import Sampling
from benchmarks.stack import EdgeKind, cores_here, stack
from cli.full_model import FullModel
from cli.partition import SHIPPED_MODEL
from services.edge.text import TextCodec
from tests.support.reference import bundles

TOKENS = 6
_GREEDY, _SAMPLED = Sampling(), Sampling(0.9, 0.95, 5)
ALONE = DEPLOYMENTS["self-speculation"]
NAMES = (
    "cloud-only", "naive split", "fair split", "standalone", "self-speculation",
    "CE-CoLLM 49.6%, half",
)  # fmt: skip


def _model(sampling: Sampling) -> FullModel:
    eos_ids = TextCodec(SHIPPED_MODEL).eos_ids
    return FullModel(SHIPPED_MODEL, sampling.of_model(TOKENS, eos_ids))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A paced set-up."""
    quarter, half = bundles(), bundles(6, 6)
    edges = [
        EdgeKind("quarter", quarter.edge),
        EdgeKind("quarter-resend", quarter.edge, resend=True),
        EdgeKind("half", half.edge),
        EdgeKind(ALONE.edge, half.edge, settings=ALONE.settings, in_cloud=True),
    ]
    prompts = read(SHIPPED, SHIPPED_MODEL, count=2, longest=64)
    workload = Workload(prompts, TOKENS, {"quarter": (3, 6), "half": (6, 6)})
    model = _model(_GREEDY)
    logs: Path = tmp_path_factory.mktemp("logs")
    with stack(quarter.cloud, edges, cores=cores_here(), paced=True, logs=logs) as running:
        yield Bench(running, workload, model, tell=lambda _: None)


@pytest.fixture(scope="module")
def measured(bench: Bench) -> tuple[dict[str, Row], dict[str, list[Answer]]]:
    """One cell: 40 ms and 30 Mbit/s."""
    deployments = [DEPLOYMENTS[name] for name in NAMES]
    deployments[-1] = deployments[-1].at(0.25)
    rows, answers = bench.cell(Cell("paced", 40.0, 30.0), deployments, repeats=1)
    return {row.deployment: row for row in rows}, {k: runs[0] for k, runs in answers.items()}


Measured = tuple[dict[str, Row], dict[str, list[Answer]]]


def test_the_network_is_as_asked(measured: Measured) -> None:
    row = measured[0]["cloud-only"]
    assert row.rtt_measured_ms == pytest.approx(40.0, rel=0.25)
    assert row.mbit_up_measured == pytest.approx(30.0, rel=0.25)
    assert row.mbit_down_measured == pytest.approx(30.0, rel=0.25)


def test_modes_that_promise_the_full_models_text_keep_it(measured: Measured) -> None:
    for name in ("cloud-only", "naive split", "fair split", "self-speculation"):
        row = measured[0][name]
        assert (row.identical, row.agreement, row.rouge_l) == (1.0, 1.0, 1.0), name
        assert row.tokens == 2 * TOKENS


def test_steps_take_the_larger_models_time(measured: Measured) -> None:
    prices = paper_prices()
    step = prices.forward(32, 1) + prices.head
    row = measured[0]["cloud-only"]
    assert row.per_token("cloud_s") >= step / 1e3
    assert row.itl_p50_s >= 0.9 * step / 1e3
    # Lower layers without an exit asked, then the cloud's.
    row = measured[0]["fair split"]
    assert row.per_token("edge_s") >= prices.forward(8, 1) / 1e3


def test_a_token_of_the_split_waits_for_the_network(measured: Measured) -> None:
    rows = measured[0]
    for name in ("naive split", "fair split"):
        assert rows[name].cloud_requests == rows[name].tokens
        assert rows[name].itl_p50_s > rows["cloud-only"].itl_p50_s + 0.04
        assert rows[name].network_s > 0.04 * rows[name].tokens
    assert rows["cloud-only"].cloud_requests == rows["cloud-only"].prompts
    assert rows["standalone"].cloud_requests == 0
    assert rows["standalone"].bytes_up == 0


def test_bytes_follow_the_papers_law(measured: Measured) -> None:
    """Each position once in fp16, or the whole prefix for every token in fp32."""
    rows, answers = measured
    prompts = [answer.prompt_tokens for answer in answers["fair split"]]
    once = sum(p + TOKENS - 1 for p in prompts) * PAPER_HIDDEN * 2
    assert rows["fair split"].bytes_up == pytest.approx(once, rel=0.1)
    again = sum(p + i for p in prompts for i in range(TOKENS)) * PAPER_HIDDEN * 4
    assert rows["naive split"].bytes_up == pytest.approx(again, rel=0.02)
    for row in rows.values():
        assert row.wire_up >= row.bytes_up
        assert row.wire_down >= row.bytes_down


def test_a_partition_of_its_own_runs_beside_the_others(measured: Measured) -> None:
    row = measured[0]["CE-CoLLM 49.6%, half"]
    assert (row.split, row.edge_depth, row.threshold) == (6, 6, 0.25)
    sources = {s for answer in measured[1]["CE-CoLLM 49.6%, half"] for s in answer.sources}
    assert "exit:6" in sources
    assert sources <= {"exit:6", "cloud"}
    assert row.offloaded == pytest.approx(row.cloud_requests / row.tokens)


def test_the_cloud_that_drafts_for_itself_is_one_device_a_round_trip_away(
    measured: Measured,
) -> None:
    rows, answers = measured
    row, prices = rows["self-speculation"], paper_prices()
    # Every pass of the upper half, and as many steps of the lower, one after the other.
    passed = row.cloud_passes * (prices.forward(16, 1) + prices.head) / 1e3
    drafted = (row.drafted_tokens + row.prompts) * (prices.forward(16, 1) + prices.head) / 1e3
    assert (row.edge_s, row.network_s) == (0.0, 0.0)
    assert passed + drafted <= row.cloud_s <= row.total_s
    # One request and its streamed answer cross the network, and no state does.
    assert row.cloud_requests == row.prompts
    assert row.bytes_up < 2000
    assert row.wire_up < 2 * PAPER_HIDDEN * 2, "less than two states, looks of other edges included"
    assert row.wire_down > row.bytes_down > 1000
    assert row.round_trips > 0
    for answer in answers["self-speculation"]:
        assert answer.ttft_s > 0.04 + (prices.forward(32, 1) + prices.head) / 1e3


def test_sampled_texts_are_cloud_onlys_and_the_full_models_with_the_same_seeds(
    bench: Bench, measured: Measured
) -> None:
    names = ("cloud-only", "fair split", "standalone", "self-speculation", "verified, quarter")
    workload = replace(bench.workload, sampling=_SAMPLED)
    sampled = Bench(bench.stack, workload, _model(_SAMPLED), tell=lambda _: None)
    deployments = [DEPLOYMENTS[name] for name in names]
    rows, answers = sampled.cell(Cell("paced", 3.0, 30.0), deployments, repeats=1)
    for row in rows:
        assert (row.temperature, row.top_p, row.seed) == (0.9, 0.95, 5)
        promised = row.deployment != "standalone"
        assert ((row.identical, row.agreement) == (1.0, 1.0)) == promised, row.deployment
    assert [a.ids for a in answers["cloud-only"][0]] != [a.ids for a in measured[1]["cloud-only"]]


def test_ratios_are_told_prompt_by_prompt(measured: Measured) -> None:
    rows, answers = measured
    base, split = (answers[name] for name in ("cloud-only", "fair split"))
    ratios = [one.total_s / other.total_s for one, other in zip(split, base, strict=True)]
    row = rows["fair split"]
    assert (row.ratio_low, row.ratio_high) == (min(ratios), max(ratios))
    assert row.ratio_paired == pytest.approx(sum(ratios) / 2)
    assert rows["cloud-only"].ratio_paired == 1.0


def test_the_share_offloaded_follows_the_threshold(bench: Bench) -> None:
    deployment = DEPLOYMENTS["CE-CoLLM 49.6%"]
    bench.workload = replace(bench.workload, new_tokens=3)
    assert bench.offloaded(deployment.at(0.0)) == 0.0
    assert bench.offloaded(deployment.at(1.0)) == 1.0
