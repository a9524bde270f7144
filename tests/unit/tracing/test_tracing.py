"""Spans of our own interface: what is lost, what is sent, and what a missing extra says."""

import sys
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from shared import environment, tracing
from shared.tracing import otlp


def test_where_the_extra_is_missing_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shared.tracing.otlp")
    monkeypatch.delattr(tracing, "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SystemExit) as ended, environment.starting():
        tracing.tracer_to("http://there", share=1.0, resource={}, dropped=lambda _: None)
    assert str(ended.value) == (
        "cannot start: traces_url is set, but OpenTelemetry is not installed: "
        "install the extra `tracing`"
    )


def test_where_nothing_is_traced_a_span_takes_everything_and_does_nothing() -> None:
    span = tracing.current()
    assert span is tracing.NO_SPAN
    assert span.child("x") is span
    span.set({"a": 1})
    span.add("a", 1)
    span.fail("a")
    span.hold()
    span.end()
    assert (span.recording, span.trace_id, list(span.headers())) == (False, None, [])


class Taking(SpanExporter):
    """Takes what it is given once it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.let.set()
        self.names: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert len(spans) <= otlp.BATCH
        self.let.wait()
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.let.set()


class Tracing:
    """A tracer with an exporter that can be held up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, share: float = 1.0) -> None:
        self.exporter = Taking()
        self.dropped = 0.0
        monkeypatch.setattr(otlp, "OTLPSpanExporter", lambda **_: self.exporter)
        self.tracer = tracing.tracer_to("", share=share, resource={}, dropped=self._drop)

    def _drop(self, count: float) -> None:
        self.dropped += count


def test_spans_wait_up_to_a_bound_and_those_beyond_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otlp, "MOST_WAITING", 100)
    traced = Tracing(monkeypatch)
    traced.exporter.let.clear()
    for number in range(1000):
        traced.tracer.serve(str(number), []).end()
    assert traced.dropped >= 800
    traced.exporter.let.set()
    traced.tracer.close(10)
    assert len(traced.exporter.names) + traced.dropped == 1000


def test_closing_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Tracing(monkeypatch)
    traced.exporter.let.clear()
    traced.tracer.serve("late", []).end()
    traced.tracer.close(0.05)  # the test's own time-out is the bound
    late = traced.tracer.serve("too late", [])
    late.end()
    assert traced.dropped >= 1


def test_a_share_of_the_traces_that_begin_here_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Tracing(monkeypatch, share=0.25)
    for number in range(2000):
        traced.tracer.serve(str(number), []).end()
    traced.tracer.close(10)
    assert 350 < len(traced.exporter.names) < 650


def test_a_span_ends_with_the_last_who_holds_it_and_is_told_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traced = Tracing(monkeypatch)
    span = traced.tracer.serve("held", [])
    span.hold()
    span.end()
    assert span.recording
    span.end()
    span.end()
    span.set({"late": 1})
    span.fail("late")
    child = span.child("child")
    assert child.trace_id == span.trace_id
    child.end()
    traced.tracer.close(10)
    assert traced.exporter.names == ["held", "child"]
