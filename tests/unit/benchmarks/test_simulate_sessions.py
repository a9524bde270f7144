"""Simulated sessions whose messages have headers and whose software takes time, in closed form."""

from dataclasses import replace

import pytest

from benchmarks.paced.prices import Prices, paper_prices
from benchmarks.simulate import paper
from benchmarks.simulate.fleet import NETWORK, Users, fleets
from benchmarks.simulate.queueing import load
from benchmarks.simulate.replay import Result, replay
from benchmarks.simulate.sessions import Trace
from benchmarks.simulate.validate import traces_of, validate
from benchmarks.simulate.world import Machine, Software, Wire
from tests.support.benchmark_rows import row

PRICES = Prices(step=5.0, layer=1.0, head=2.0, row=0.6, depth=12)
# Two exits, and one where the states travel.
TWO, ONE = Machine(PRICES, 3, 6, 3), Machine(PRICES, 6, 6, 6)
ROW, BLOCK, REPORT, MBIT, RTT = 8192, 500, 400, 8.0, 20.0
WIRE = Wire(rtt=RTT, up=MBIT, down=MBIT, row=ROW, block=BLOCK, report=REPORT, ids=3)
BYTE_MS = 1e-3  # of 8 Mbit/s
PROMPT, TOKENS = 16, 10


def _trace(*sources: str, prompt: int = PROMPT) -> list[Trace]:
    return [Trace(prompt, sources)]


def _pass(machine: Machine, rows: int) -> float:
    """A step from the cloud's start on: fixed part, layers, one head, further rows."""
    share = (12 - machine.start) / 12
    return 5.0 + 12 * share + 2.0 + 0.6 * (rows - 1) * share


def _milliseconds(result: Result) -> float:
    return 1e3 * result.total_s


def test_kept_tokens_cost_the_edge_and_nothing_else() -> None:
    """Uploads under way all the time lengthen nothing, however slow the line."""
    slow = replace(WIRE, up=0.1)
    kept = replay("collaborative", TWO, slow, _trace(*["exit:3"] * TOKENS))
    first = 5.0 + 3 * (1 + 0.6 * (PROMPT - 1) / 12) + 2.0
    assert _milliseconds(kept) == pytest.approx(first + (TOKENS - 1) * (5.0 + 3.0 + 2.0))
    assert kept.requests == 0
    assert kept.cloud_s == 0
    assert kept.bytes_up > 0


@pytest.mark.parametrize("machine", [ONE, TWO], ids=["one exit", "two exits"])
def test_an_offloaded_token_is_edge_bytes_round_trip_and_pass(machine: Machine) -> None:
    found = replay("collaborative", machine, WIRE, _trace(*["cloud"] * TOKENS))
    heads = 2.0 if machine is ONE else 4.0

    def token(rows: int) -> float:
        edge = 5.0 + 6 * (1 + 0.6 * (rows - 1) / 12) + heads
        return edge + BYTE_MS * (BLOCK + rows * ROW + REPORT) + RTT + _pass(machine, rows)

    # Looking whether the block before has come takes up to 0.05 ms a token.
    assert _milliseconds(found) == pytest.approx(token(PROMPT) + (TOKENS - 1) * token(1), rel=1e-4)
    assert found.requests == TOKENS
    assert found.itl_p50_s * 1e3 == pytest.approx(token(1), rel=1e-3)


def test_the_fair_split_asks_no_exit() -> None:
    split = replay("split", TWO, WIRE, _trace(*["cloud"] * TOKENS))
    asked = replay("collaborative", TWO, WIRE, _trace(*["cloud"] * TOKENS))
    above = 3 * (1.0 * TOKENS + 0.6 * (PROMPT - 1) / 12) + 2 * 2.0 * TOKENS
    assert _milliseconds(asked) - _milliseconds(split) == pytest.approx(above)
    assert split.bytes_up == asked.bytes_up


def test_the_naive_split_sends_the_prefix_again() -> None:
    """The paper's law, 16 KB (N P + N (N + 1) / 2) in fp32: its P leaves out the token that begins
    every text.
    """
    wire = replace(WIRE, row=16_384, block=0)
    naive = replay("naive split", TWO, wire, _trace(*["cloud"] * TOKENS, prompt=PROMPT + 1))
    assert naive.bytes_up == 16_384 * (TOKENS * PROMPT + TOKENS * (TOKENS + 1) // 2)
    once = replay("split", TWO, wire, _trace(*["cloud"] * TOKENS, prompt=PROMPT + 1))
    assert once.bytes_up == 16_384 * (PROMPT + TOKENS)
    assert naive.cloud_s == pytest.approx(once.cloud_s)  # its cloud keeps its KV


def test_a_request_waits_for_the_upload_before_it() -> None:
    """The prompt's states are still on the line when the second token needs the cloud."""
    found = replay("collaborative", ONE, WIRE, _trace("exit:6", "cloud"))
    first = 5.0 + 6 * (1 + 0.6 * (PROMPT - 1) / 12) + 2.0
    line = BYTE_MS * (2 * BLOCK + (PROMPT + 1) * ROW)
    after = RTT + _pass(ONE, PROMPT + 1) + BYTE_MS * REPORT
    assert _milliseconds(found) == pytest.approx(first + line + after, rel=1e-3)


def test_what_was_uploaded_in_time_costs_a_request_nothing() -> None:
    fast = replace(WIRE, up=1000.0, rtt=1.0)
    found = replay("collaborative", ONE, fast, _trace("exit:6", "cloud"))
    token = 5.0 + 6.0 + 2.0
    first = token + 6 * 0.6 * (PROMPT - 1) / 12
    sent = (BLOCK + ROW) / 125e3 + BYTE_MS * REPORT
    assert _milliseconds(found) == pytest.approx(
        first + token + sent + 1.0 + _pass(ONE, PROMPT + 1), rel=1e-3
    )


def test_both_sides_catch_up_on_what_was_left_behind() -> None:
    found = replay("collaborative", TWO, WIRE, _trace("cloud", "exit:3", "exit:3", "cloud"))
    lower = 4 * (5.0 + 3.0 + 2.0) + 3 * 0.6 * (PROMPT - 1) / 12
    upper = 2 * (3.0 + 2.0) + 3 * 0.6 * (PROMPT - 1 + 2) / 12
    assert 1e3 * found.edge_s == pytest.approx(lower + upper)
    assert 1e3 * found.cloud_s == pytest.approx(_pass(TWO, PROMPT) + _pass(TWO, 3))


@pytest.mark.parametrize(
    ("name", "kind"), [("cloud-only", "cloud-only"), ("CE-CoLLM 49.6%", "collaborative")]
)
def test_a_fleet_of_one_is_a_session(name: str, kind: str) -> None:
    """Against the same answers replayed."""
    fleet = fleets(Users(prompt=21, think_s=0.0), Software())[name]
    session = replay(kind, Machine(paper_prices(), 8, 16, 8), NETWORK, paper.traces(8, 16))
    rate = session.tokens / session.total_s
    assert load(fleet, 1).tokens_per_s == pytest.approx(rate, rel=0.04)


def test_a_need_takes_its_states_along_before_its_own_software_runs() -> None:
    """As the services do: the block is cut at once, and the uploader wakes to nothing left."""
    busy = Machine(PRICES, 6, 6, 6, Software(request=50.0))
    idle, late = (
        replay("collaborative", each, WIRE, _trace(*["cloud"] * TOKENS)) for each in (ONE, busy)
    )
    assert _milliseconds(late) - _milliseconds(idle) == pytest.approx(TOKENS * 50.0)
    assert late.bytes_up == TOKENS * BLOCK + (PROMPT + TOKENS - 1) * ROW


def test_rows_are_predicted_by_what_was_asked_where_nothing_was_measured() -> None:
    traces = traces_of({"fair split": [{"prompt_tokens": PROMPT, "sources": ["cloud"] * TOKENS}]})
    loopback = row(deployment="fair split", rtt_ms=0.0, mbit=None, split=3, edge_depth=6)
    asked = replace(loopback, rtt_ms=50.0, mbit=30.0, rtt_measured_ms=None)
    asked = replace(asked, mbit_up_measured=None, mbit_down_measured=None)
    told = replace(asked, rtt_measured_ms=50.0, mbit_up_measured=30.0, mbit_down_measured=30.0)
    unknown = replace(asked, deployment="of another program")
    found = validate([loopback, asked, told, unknown], traces, depth=12).predicted
    assert [each.total_s for each in found] == [found[0].total_s] * 2
    assert found[0].total_s > TOKENS * 0.05
