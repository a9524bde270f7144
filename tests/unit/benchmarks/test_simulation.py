"""The simulation against closed forms, the paper's figures, and rows of known software."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from benchmarks.deployments import DEPLOYMENTS
from benchmarks.paced.prices import Prices
from benchmarks.rows import Row
from benchmarks.simulate import paper, shapes
from benchmarks.simulate.replay import Result, replay
from benchmarks.simulate.sessions import SESSIONS, Trace
from benchmarks.simulate.validate import kind_of, traces_of, validate
from benchmarks.simulate.world import Machine, Software, Wire
from tests.support.benchmark_rows import row

PRICES = Prices(step=5.0, layer=1.0, head=2.0, row=0.6, depth=12)
MACHINE = Machine(PRICES, first=3, last=6, start=3)
# 8192 bytes of state and none of anything else: a millisecond a row.
WIRE = Wire(rtt=40.0, up=65.536, down=65.536, row=8192, block=0, report=0, ids=0)
N = 20


def _answer(source: str, prompt: int = 1) -> list[Trace]:
    return [Trace(prompt, [source] * N)]


def test_cloud_only_is_a_round_trip_and_a_step_for_each_token() -> None:
    found = replay("cloud-only", MACHINE, WIRE, _answer("cloud"))
    assert found.total_s == pytest.approx((40 + N * (5 + 12 + 2)) / 1e3)
    assert found.cloud_s == pytest.approx(N * 19 / 1e3)
    assert found.requests == 1
    assert found.itl_p50_s == pytest.approx(0.019)


@pytest.mark.parametrize(("source", "step"), [("exit:3", 5 + 3 + 2), ("exit:6", 5 + 3 + 2 + 3 + 2)])
def test_standalone_is_its_steps(source: str, step: float) -> None:
    found = replay("standalone", MACHINE, WIRE, _answer(source))
    assert found.total_s == pytest.approx(N * step / 1e3)
    assert (found.requests, found.bytes_up, found.cloud_s) == (0, 0, 0)


@pytest.mark.parametrize(("kind", "edge"), [("split", 8.0), ("collaborative", 15.0)])
def test_a_token_offloaded_waits_for_its_state_the_network_and_the_pass(
    kind: str, edge: float
) -> None:
    found = replay(kind, MACHINE, WIRE, _answer("cloud"))
    a_pass = 5 + 9 + 2
    assert found.total_s == pytest.approx(N * (edge + 1 + 40 + a_pass) / 1e3)
    assert found.network_s == pytest.approx(N * 41 / 1e3)
    assert found.requests == N


def test_kept_tokens_are_uploaded_meanwhile_and_judged_in_the_next_pass() -> None:
    trace = [Trace(1, ["exit:6"] * 9 + ["cloud"])]
    # A network that the uploads of nine kept tokens do not fill: none of them is waited for.
    found = replay("collaborative", MACHINE, replace(WIRE, rtt=4.0), trace)
    a_pass = 5 + 9 * (1 + 0.6 * 9 / 12) + 2
    assert found.total_s == pytest.approx((10 * 15 + 1 + 4 + a_pass) / 1e3)
    assert found.bytes_up == 10 * 8192


def test_on_a_slow_network_a_need_waits_for_what_is_under_way() -> None:
    trace = [Trace(1, ["exit:6"] * 9 + ["cloud"])]
    slow = replace(WIRE, up=6.5536)  # ten milliseconds a row, and a step takes fifteen
    quick, late = (replay("collaborative", MACHINE, wire, trace).total_s for wire in (WIRE, slow))
    # Uploads go one after the other's report: what piled up goes with the need.
    assert late - quick > 0.02


def test_positions_left_behind_are_caught_up_in_one_step() -> None:
    trace = [Trace(1, ["exit:3"] * 4 + ["exit:6"])]
    found = replay("standalone", MACHINE, WIRE, trace)
    last = 5 + 3 + 2 + 3 * (1 + 0.6 * 4 / 12) + 2
    assert found.total_s == pytest.approx((4 * 10 + last) / 1e3)


def test_the_naive_split_sends_what_the_paper_sent() -> None:
    """16 KB for every position of the prefix, for every token."""
    found = replay("naive split", MACHINE, replace(WIRE, row=16384), _answer("cloud", prompt=7))
    assert found.bytes_up == 16384 * (N * 7 + N * (N - 1) / 2)
    once = replay("split", MACHINE, WIRE, _answer("cloud", prompt=7))
    assert once.bytes_up == 8192 * (7 + N - 1)
    assert found.cloud_s == once.cloud_s


def test_long_prompts_go_in_chunks() -> None:
    found = replay("cloud-only", MACHINE, WIRE, [Trace(1000, ["cloud"])])
    first = 5 + 12 + 0.6 * 511
    last = 5 + 12 + 0.6 * 487 + 2
    assert found.cloud_s == pytest.approx((first + last) / 1e3)


def test_the_papers_run_is_reproduced() -> None:
    found = {(each.name, each.edge): each for each in paper.reproduce()}
    assert abs(found["cloud-only", "standalone"].error) < 0.01
    assert abs(found["standalone", "standalone"].error) < 0.01
    assert abs(found["naive split", "standalone"].error) < 0.02
    together = found["CE-CoLLM 49.6%", "collaborative"]
    assert together.result.total_s == pytest.approx(319.06, rel=0.02)
    whole = found["cloud-only", "standalone"].result
    assert together.result.cloud_s / whole.cloud_s == pytest.approx(112.72 / 369.80, rel=0.02)
    assert together.result.requests == 4958
    # Its traffic, in KB a response.
    assert together.result.bytes_up / 100 / 1024 == pytest.approx(956.62, rel=0.01)
    naive = found["naive split", "standalone"].result
    assert naive.bytes_up / 100 / 1024 == pytest.approx(112_128, rel=0.001)


def test_by_its_own_costs_the_paper_breaks_even_at_ten_milliseconds() -> None:
    # (370.17 - 319.06) s over 4,858 further round trips.
    assert paper.break_even_ms() == pytest.approx(10.5, rel=0.15)


def test_the_way_to_the_paper_ends_near_it() -> None:
    ours = [Trace(10, ["exit:6", "cloud"] * 16)]
    way = paper.way_to_the_paper(ours, Wire(rtt=3.0, up=30.0, down=30.0), Software(request=5.0))
    assert way[0].total > way[1].total > way[-1].total
    assert way[-1].total == pytest.approx(0.862, rel=0.02)
    assert way[-1].cloud == pytest.approx(0.305, rel=0.02)


def _rows(software: Software, traces: dict[str, list[Trace]]) -> list[Row]:
    """Rows as a machine with this software would measure them."""
    found = []
    for rtt, mbit in ((0.0, None), (3.0, 30.0), (50.0, 5.0)):
        for name, those in traces.items():
            found.append(_measured(name, those, rtt, mbit, software))
    return found


def _measured(
    name: str, those: Sequence[Trace], rtt: float, mbit: float | None, software: Software
) -> Row:
    from benchmarks.paced.prices import paper_prices

    deployment = DEPLOYMENTS[name]
    kind = kind_of(deployment)
    assert kind is not None
    split, last = (6, 6) if deployment.cut == "half" else (3, 6)
    codec = str(deployment.parameters.get("codec", "fp16"))
    own = Machine(paper_prices().scaled_to(12), split, last, split, software)
    wire = Wire(rtt=rtt, up=mbit, down=mbit, row=4096 * (4 if codec == "fp32" else 2))
    seconds: Result = replay(kind, own, wire, those)
    return row(
        deployment=name, rtt_ms=rtt, mbit=mbit, rtt_measured_ms=rtt, mbit_up_measured=mbit,
        mbit_down_measured=mbit, total_s=seconds.total_s, split=split, edge_depth=last,
        codec=codec,
    )  # fmt: skip


def _drawn(names: Sequence[str]) -> dict[str, list[Trace]]:
    draw = random.Random(1)
    choices = {"standalone": ("exit:3", "exit:6"), "collaborative": ("exit:3", "exit:6", "cloud")}
    found = {}
    for name in names:
        kind = kind_of(DEPLOYMENTS[name])
        sources = choices.get(str(kind), ("cloud",))
        found[name] = [Trace(12, draw.choices(sources, k=30)) for _ in range(2)]
    return found


NAMES = ("cloud-only", "naive split", "fair split", "standalone", "CE-CoLLM 0.8", "collaborative")


def test_software_is_found_again_and_cells_predicted() -> None:
    software = Software(edge_step=1.5, request=4.0, streamed=0.8, megabyte=6.0)
    traces = _drawn(NAMES)
    found = validate(_rows(software, traces), traces, depth=12)
    for name in ("edge_step", "request", "streamed", "megabyte"):
        assert getattr(found.software, name) == pytest.approx(getattr(software, name), rel=0.05)
    assert len(found.predicted) == 2 * len(NAMES)
    assert found.worst < 0.005


def test_a_machine_that_does_something_else_is_noticed() -> None:
    traces = _drawn(NAMES)
    rows = _rows(Software(request=4.0), traces)
    rows[-1] = replace(rows[-1], total_s=rows[-1].total_s * 1.2)
    assert validate(rows, traces, depth=12).worst > 0.1


def test_validation_needs_both_kinds_of_rows() -> None:
    traces = _drawn(NAMES)
    rows = _rows(Software(), traces)
    with pytest.raises(ValueError, match="loopback"):
        validate([each for each in rows if each.rtt_ms], traces, depth=12)


def test_traces_are_read_from_their_file() -> None:
    told = {"a": [{"prompt_tokens": 3, "sources": ["exit:3", "cloud"]}]}
    assert traces_of(told) == {"a": [Trace(3, ["exit:3", "cloud"])]}
    with pytest.raises(ValueError, match="no list"):
        traces_of({"a": [{"prompt_tokens": 3, "sources": "cloud"}]})


def test_every_deployment_but_of_verified_has_a_session() -> None:
    modelled = [each for each in DEPLOYMENTS.values() if each.mode != "verified"]
    assert {kind_of(each) for each in modelled} <= set(SESSIONS)


def test_a_larger_model_pays_more_for_layers_and_as_much_for_the_network() -> None:
    at = {
        name: shapes.point(shape, "CE-CoLLM 49.6%", 100.0, 30.0, Software())
        for name, shape in shapes.SHAPES.items()
    }
    assert at["70B"].total < at["7B"].total
    even = shapes.break_even(shapes.SHAPES["70B"], "CE-CoLLM 49.6%", 30.0, Software())
    assert even is not None
    for rtt, slower in ((even * 0.9, False), (even * 1.1, True)):
        found = shapes.point(shapes.SHAPES["70B"], "CE-CoLLM 49.6%", rtt, 30.0, Software())
        assert (found.total > 1) is slower
    assert shapes.break_even(shapes.SHAPES["7B"], "fair split", 30.0, Software()) is None
    assert shapes.break_even(shapes.SHAPES["7B"], "standalone", 30.0, Software()) == float("inf")
