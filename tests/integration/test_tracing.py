"""Traces of real services at a collector: one per request, over both machines, and nothing of them
where nobody asked.
"""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.apps import PATIENCE
from tests.support.collector import Collector, Seen, collecting
from tests.support.services import Service, Services, free_port, new_services

# What the cloud is asked in each mode, at least once: besides, its sessions are closed.
OPERATIONS = {
    "collaborative": {"complete"},
    "split": {"complete"},
    "cloud": {"stream"},
    "verified": set(),
    "standalone": set(),
}


def traced(folder: Any, collector: str, **edge: str) -> Services:
    quick = {"probe_seconds": "3", "first_pause_seconds": "0.1"}
    pair = new_services(folder, **{**quick, **edge})
    traces = {"traces_url": collector}
    edge_settings = {**pair.edge.settings, **traces, "log_level": "DEBUG"}
    return Services(
        Service("cloud", pair.cloud.log, traces, port=pair.cloud.port),
        Service("edge", pair.edge.log, edge_settings, port=pair.edge.port),
    )


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Services]:
    pair = traced(tmp_path_factory.mktemp("traced"), collector.url)
    try:
        pair.start()
        yield pair
    finally:
        pair.edge.abandon()
        pair.cloud.abandon()


def parent_of(sampled: bool = True) -> tuple[str, dict[str, str]]:
    """A new trace of the caller's, and the headers that say so."""
    trace = secrets.token_hex(16)
    parent = f"00-{trace}-{secrets.token_hex(8)}-{'01' if sampled else '00'}"
    return trace, {"traceparent": parent, "tracestate": "caller=here"}


def ask(pair: Services, headers: dict[str, str], **parameters: Any) -> httpx.Response:
    parameters = {"max_new_tokens": 8, "threshold": 0.9, **parameters}
    stream = parameters.pop("stream", False)
    body = {"inputs": "Once there was", "parameters": parameters, "stream": stream}
    return httpx.post(f"{pair.edge.url}/generate", json=body, headers=headers, timeout=PATIENCE)


def whole_trace(collector: Collector, trace: str) -> tuple[Seen, list[Seen], list[Seen]]:
    """A trace once every round trip of it has both its spans: the request's, the edge's of round
    trips, and the cloud's.
    """
    for count in range(1, 200):
        spans = collector.wait_for(count, trace)
        roots = [each for each in spans if each.name == "POST /generate"]
        trips = [each for each in spans if each.kind == "client"]
        served = [each for each in spans if each.service == "tandem-cloud"]
        closed = any(each.attributes["tandem.operation"] == "close" for each in trips)
        alone = roots and roots[0].attributes.get("tandem.mode") == "standalone"
        if len(roots) == 1 and len(served) == len(trips) and (closed or alone):
            return roots[0], trips, served
    raise AssertionError(spans)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", OPERATIONS)
def test_a_request_is_one_trace_over_both_machines(
    mode: str, stream: bool, pair: Services, collector: Collector
) -> None:
    trace, headers = parent_of()
    answer = ask(pair, headers, mode=mode, stream=stream, details=True)
    assert answer.status_code == 200
    root, trips, served = whole_trace(collector, trace)
    assert (root.service, root.kind, root.error) == ("tandem-edge", "server", None)
    assert root.parent_id == headers["traceparent"].split("-")[2]
    assert {trip.parent_id for trip in trips} <= {root.span_id}
    assert sorted(each.parent_id for each in served) == sorted(trip.span_id for trip in trips)
    asked = {trip.attributes["tandem.operation"] for trip in trips}
    assert OPERATIONS[mode] <= asked
    assert bool(trips) == (mode != "standalone")
    whole = json.loads(answer.text.strip().split("data: ")[-1]) if stream else answer.json()
    _check_root(root, whole["details"], mode)
    _check_trips(root, trips, served, whole["details"]["usage"])


def _check_root(root: Seen, details: dict[str, Any], mode: str) -> None:
    said = root.attributes
    assert said["tandem.mode"] == mode
    assert said["gen_ai.request.model"]
    assert said["gen_ai.usage.input_tokens"] == details["usage"]["prompt_tokens"]
    assert said["gen_ai.usage.output_tokens"] == details["generated_tokens"]
    assert said["gen_ai.response.finish_reasons"] == [details["finish_reason"]]
    by_source = {k.removeprefix("tandem.tokens."): n for k, n in said.items() if "tokens." in k}
    assert {k: n for k, n in by_source.items() if "gen_ai" not in k} == details["usage"][
        "tokens_by_source"
    ]
    assert said["http.response.status_code"] == 200
    assert root.events == ("first_token",)


def _check_trips(root: Seen, trips: list[Seen], served: list[Seen], usage: dict[str, Any]) -> None:
    for trip in trips:
        assert trip.attributes["tandem.outcome"] in ("ok", "cancelled")
        assert trip.attributes["server.address"] == "127.0.0.1"
        assert trip.error is None
    blocks = [t for t in trips if t.attributes["tandem.operation"] != "close"]
    assert sum(t.attributes["tandem.bytes_up"] for t in blocks) >= usage["bytes_up"]
    # A stream's span is there as long as the stream.
    for stream in (t for t in trips if t.attributes["tandem.operation"] == "stream"):
        assert root.start < stream.start < stream.end
    passes = [each for each in served if "tandem.rows" in each.attributes]
    assert bool(passes) == bool(usage["cloud_passes"])
    for each in passes:
        assert each.attributes["tandem.rows"] >= 1
        assert each.attributes["tandem.compute_seconds"] > 0
        assert each.attributes["tandem.queue_seconds"] >= 0


def test_a_log_line_names_its_trace(pair: Services, collector: Collector) -> None:
    trace, headers = parent_of()
    ask(pair, headers, mode="standalone")
    collector.wait_for(1, trace)
    lines = [json.loads(line) for line in pair.edge.log.read_text().splitlines()]
    assert [line["message"] for line in lines if line.get("trace_id") == trace] == [
        "request finished"
    ]


@pytest.mark.parametrize(
    "given",
    [
        "00-0-0-01",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"ff-{'1' * 32}-{'1' * 16}-01",
        f"00-{'A' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01-more",
        "x" * 4000,
    ],
)
def test_a_parent_that_is_none_is_not_taken(
    given: str, pair: Services, collector: Collector
) -> None:
    before = len(collector.spans)
    assert ask(pair, {"traceparent": given}, mode="standalone").status_code == 200
    collector.wait_for(before + 1)
    assert collector.spans[-1].parent_id == ""
    assert collector.spans[-1].trace_id not in given


def test_a_refused_request_has_our_code_and_no_word_more(
    pair: Services, collector: Collector
) -> None:
    for parameters, code in (
        ({"priority": "emergency"}, "forbidden"),
        ({"colour": "green"}, "validation"),
    ):
        trace, headers = parent_of()
        answer = ask(pair, headers, **parameters)
        (span,) = collector.wait_for(1, trace)
        assert (span.error, span.attributes["error.type"]) == (code, code)
        assert span.attributes["http.response.status_code"] == answer.status_code


def test_a_hung_up_stream_ends_its_span_with_what_it_cost(
    pair: Services, collector: Collector
) -> None:
    trace, headers = parent_of()
    endless = {"max_new_tokens": 1500, "min_new_tokens": 1500, "mode": "standalone"}
    body = {"inputs": "Once", "parameters": endless, "stream": True}
    url = f"{pair.edge.url}/generate"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=PATIENCE) as stream:
        next(stream.iter_lines())
    (span,) = collector.wait_for(1, trace)
    assert (span.attributes["tandem.outcome"], span.error) == ("cancelled", None)
    assert 0 < span.attributes["gen_ai.usage.output_tokens"] < 1500


def test_a_caller_that_samples_nothing_is_heard_on_both_sides(
    pair: Services, collector: Collector
) -> None:
    unsampled, headers = parent_of(sampled=False)
    assert ask(pair, headers, mode="split").status_code == 200
    trace, headers = parent_of()
    assert ask(pair, headers, mode="split").status_code == 200
    whole_trace(collector, trace)
    assert collector.of(unsampled) == []


def test_a_collector_that_refuses_costs_spans_and_nothing_else(
    pair: Services, collector: Collector
) -> None:
    collector.taking = False
    try:
        trace, headers = parent_of()
        assert ask(pair, headers, mode="collaborative").status_code == 200
        while not (dropped := _dropped(pair.edge)):
            assert collector.refused < 100
        assert dropped >= 1
        assert collector.of(trace) == []
    finally:
        collector.taking = True
    trace, headers = parent_of()
    ask(pair, headers, mode="collaborative")
    whole_trace(collector, trace)


def _dropped(service: Service) -> float:
    lines = service.metrics().splitlines()
    return float(next(n for n in lines if n.startswith("tandem_spans_dropped_total")).split()[1])


def test_retries_and_failures_are_spans_and_the_last_ones_are_sent_at_the_end(
    tmp_path: Any, collector: Collector
) -> None:
    # A look at the killed cloud would spare the request its tries.
    pair = traced(tmp_path, collector.url, traces_share="1", probe_seconds="600")
    try:
        pair.cloud.start()
        pair.cloud.wait_until_ready()
        pair.edge.start()
        pair.edge.wait_until_ready("reachable")
        pair.cloud.kill()
        trace, headers = parent_of()
        answer = ask(pair, headers, mode="collaborative", threshold=1.0)
        assert answer.status_code == 200
        assert pair.edge.stop() == 0
    finally:
        pair.edge.abandon()
        pair.cloud.abandon()
    spans = collector.of(trace)
    root = next(each for each in spans if each.name == "POST /generate")
    assert root.attributes["tandem.degraded"] is True
    asked = [s for s in spans if s.attributes.get("tandem.operation") == "complete"]
    assert len(asked) >= 2, "a request that failed is sent once more"
    assert {each.error for each in asked} <= {"refused", "broken"}
    assert {each.parent_id for each in asked} == {root.span_id}


def test_without_a_share_nothing_is_sent_and_an_absent_collector_delays_nothing(
    tmp_path: Any, collector: Collector
) -> None:
    before = len(collector.spans)
    none = traced(tmp_path, collector.url, traces_share="0")
    none.cloud.settings = {"traces_url": f"http://127.0.0.1:{free_port()}/v1/traces"}
    try:
        none.start()
        for _ in range(5):
            assert ask(none, {}, mode="split").status_code == 200
        # The edge's unsampled traces are not the cloud's: it may not begin its own within them.
        assert none.edge.stop() == 0
        trace, headers = parent_of()
        del trace
        block = httpx.post(f"{none.cloud.url}/v1/blocks", headers=headers, timeout=PATIENCE)
        assert block.status_code == 400
        assert none.cloud.stop(seconds=15) == 0
    finally:
        none.edge.abandon()
        none.cloud.abandon()
    assert collector.spans[before:] == []
