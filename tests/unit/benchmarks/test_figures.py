"""From answers to rows: medians, shares, thresholds that match a share, and the file they go to."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import rows
from benchmarks.cells import RELATIVE_STEPS, full, loopback, parse, quick, relative
from benchmarks.client import Answer
from benchmarks.deployments import DEPLOYMENTS, Deployment, register
from benchmarks.matching import threshold_for
from benchmarks.measure import between_tokens, figures
from benchmarks.prompts import SHIPPED, read
from benchmarks.quality import Judged, nearness
from benchmarks.rows import Row
from benchmarks.stack import Cores
from cli.errors import CommandError
from cli.full_model import FullModel
from cli.partition import SHIPPED_MODEL
from services.edge.text import TextCodec
from tests.support.reference import generate
from tests.support.reference import whole as reference

ANSWER = Answer(
    ids=(1, 2, 3, 4),
    text="a text",
    sources=("exit:3", "cloud", "exit:6", "cloud"),
    prompt_tokens=5,
    total_s=1.0,
    ttft_s=0.4,
    gaps_s=(0.1, 0.2, 0.3),
    edge_s=0.3,
    cloud_s=0.2,
    network_s=0.1,
    cloud_requests=2,
    bytes_up=1000,
    bytes_down=100,
    wire_up=1500,
    wire_down=300,
)


def test_a_run_is_the_sum_over_its_prompts_and_a_row_the_median_over_runs() -> None:
    runs = [[replace(ANSWER, total_s=t), replace(ANSWER, total_s=2 * t)] for t in (1.0, 5.0, 2.0)]
    found = figures(runs)
    assert (found["total_s"], found["total_s_low"], found["total_s_high"]) == (6.0, 3.0, 15.0)
    assert (found["prompts"], found["tokens"], found["repeats"]) == (2, 8, 3)
    assert (found["cloud_requests"], found["bytes_up"], found["wire_down"]) == (4, 2000, 600)
    assert found["offloaded"] == 0.5
    assert (found["itl_p50_s"], found["itl_p95_s"]) == (pytest.approx(0.2), pytest.approx(0.3))


def test_what_comes_at_once_is_a_gap_and_no_pause() -> None:
    found = between_tokens([0.0, 0.0001, 0.0, 0.2, 0.1])
    assert found["itl_p50_s"] == pytest.approx(0.0001)
    assert found["pause_p50_s"] == pytest.approx(0.15)
    assert found["pause_p95_s"] == pytest.approx(0.195)
    assert between_tokens([0.0, 0.0])["pause_p95_s"] is None


def test_what_became_of_drafts_is_summed_over_prompts_too() -> None:
    drafting = replace(
        ANSWER, drafted_tokens=9, accepted_tokens=3, cloud_passes=2, round_trips=1, waiting_s=0.5,
        near_ties=1,
    )  # fmt: skip
    found = figures([[drafting, drafting, ANSWER]])
    assert (found["drafted_tokens"], found["accepted_tokens"], found["near_ties"]) == (18, 6, 2)
    assert (found["cloud_passes"], found["round_trips"], found["waiting_s"]) == (4, 2, 1.0)


def test_deployments_alike_in_all_but_parameters_share_an_edge() -> None:
    one = Deployment("one", {"mode": "verified"}, settings={"draft_width": "4", "codec": "int8"})
    other = replace(one, name="other", parameters={"mode": "split"})
    assert one.edge == other.edge == "quarter-codec=int8-draft_width=4"
    assert replace(one, settings={}).edge == "quarter"
    assert replace(one, settings={}, in_cloud=True, cut="half").edge == "half-in-cloud"


def test_a_threshold_is_found_by_the_share_it_offloads() -> None:
    assert threshold_for(0.5, lambda t: t**2) == pytest.approx(0.5**0.5, abs=0.01)
    # What can never be reached is approached as far as it goes.
    assert threshold_for(0.5, lambda t: 0.1 * t) > 0.98


def test_a_step_in_the_share_gives_its_nearer_side() -> None:
    assert threshold_for(0.5, lambda t: 0.9 if t > 0.3 else 0.4) < 0.3


def test_every_deployment_of_the_comparison_is_there() -> None:
    assert set(DEPLOYMENTS) >= {
        "cloud-only", "naive split", "fair split", "standalone", "CE-CoLLM 0.7", "CE-CoLLM 0.8",
        "CE-CoLLM 0.9", "CE-CoLLM 1.0", "collaborative",
    }  # fmt: skip
    published = DEPLOYMENTS["CE-CoLLM 0.8"]
    assert published.parameters == {"mode": "collaborative", "codec": "fp16", "threshold": 0.8}
    assert DEPLOYMENTS["naive split"].edge == "quarter-resend"
    assert DEPLOYMENTS["CE-CoLLM 49.6%, half"].at(0.25).parameters["threshold"] == 0.25


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="cloud-only"):
        register(Deployment("cloud-only", {"mode": "cloud"}))


def test_the_grids_are_those_asked_for() -> None:
    assert len(full("paced")) == 20
    assert [cell.rtt_ms for cell in quick("paced")] == [3, 20, 50, 100]
    assert {cell.mbit for cell in quick("paced")} == {30}
    assert not quick("real")
    cells = relative(0.01)
    assert [cell.rtt_ms for cell in cells] == pytest.approx(
        [10 * steps for steps in RELATIVE_STEPS]
    )
    assert "2.7 steps" in str(cells[-1])
    assert str(loopback("real")) == "real, loopback"


def test_a_network_can_be_named() -> None:
    assert parse("paced:3:30") == full("paced")[5]
    for wrong in ("paced:3", "fast:3:30", "paced:x:30", "paced:-3:30", "paced:3:0"):
        with pytest.raises(ValueError, match=r"\w"):
            parse(wrong)


def test_each_side_has_a_core_where_there_are_two() -> None:
    assert Cores.of_this_machine({3, 1, 2}) == Cores(1, 2)
    assert Cores.of_this_machine({4}) == Cores(4, 4)


def test_prompts_come_with_their_ids(tmp_path: Path) -> None:
    found = read(SHIPPED, SHIPPED_MODEL, count=4, longest=100)
    assert [prompt.ids for prompt in found] == [
        tuple(TextCodec(SHIPPED_MODEL).encode(prompt.text)) for prompt in found
    ]
    with pytest.raises(CommandError, match="not 1000"):
        read(SHIPPED, SHIPPED_MODEL, count=1000, longest=100)
    other = tmp_path / "prompts.jsonl"
    other.write_text('{"text": "no prompt"}\n')
    with pytest.raises(CommandError, match="has 0 prompts"):
        read(other, SHIPPED_MODEL, count=1, longest=100)


def test_nearness_counts_tokens_texts_and_words() -> None:
    text = TextCodec(SHIPPED_MODEL)
    prompt = text.encode("Once upon a time")
    whole = list(generate(reference(), [prompt], new_tokens=8, at_least=8)[0].ids)
    other = [*whole[:4], (whole[4] + 1) % 4096, *whole[5:]]
    answers = [Judged(prompt, ids, text.decode(ids)) for ids in (whole, other)]
    found = nearness(FullModel(SHIPPED_MODEL), answers, [answers[0]] * 2)
    # The token put in is not the full model's; what it says after it is its own affair.
    assert 4 + 8 <= found.agreement * 16 < 16
    assert found.identical == 0.5
    assert 0.5 < found.rouge_l < 1


def test_the_same_text_is_as_near_as_can_be_in_any_script() -> None:
    model = FullModel(SHIPPED_MODEL)
    same = Judged((5, 6), (7, 8), "дом")
    assert nearness(model, [same], [same]).rouge_l == 1.0


def test_rows_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    row = _row()
    rows.save(path, [row, replace(row, deployment="other")])
    assert rows.load(path) == [row, replace(row, deployment="other")]
    assert len(json.loads(path.read_text())) == 2
    assert rows.ratio(replace(row, tokens=8), row) == 0.5


@pytest.mark.parametrize(
    ("change", "named"), [({"total_s": None}, "total_s"), ({"speed": 1}, "speed")]
)
def test_a_row_with_other_keys_is_refused(change: dict[str, object], named: str) -> None:
    told = {k: v for k, v in {**_row().to_json(), **change}.items() if v is not None or k != named}
    with pytest.raises(CommandError, match=named):
        Row.from_json(told)


@pytest.mark.parametrize("text", ["{}", "[1]", "no json"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(CommandError, match=r"rows\.json"):
        rows.load(path)


def _row() -> Row:
    return Row(
        deployment="cloud-only",
        setup="paced",
        rtt_ms=3.0,
        mbit=30.0,
        rtt_steps=None,
        rtt_measured_ms=3.1,
        mbit_up_measured=29.9,
        mbit_down_measured=29.9,
        agreement=1.0,
        identical=1.0,
        rouge_l=1.0,
        split=None,
        edge_depth=None,
        threshold=None,
        codec=None,
        peer=False,
        **figures([[ANSWER]]),
    )
