"""Spans by OpenTelemetry: contexts in W3C's headers, sent in batches to a collector, and dropped
where it does not take them. Nothing but this module imports OpenTelemetry.
"""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.tracing import Attribute, Dropped, Headers, Span

# Spans that may wait to be sent, and how many go at once.
MOST_WAITING = 4096
BATCH = 512
# How long spans wait for others to go with.
PAUSE_SECONDS = 1.0
# How long the collector may take for a batch, retries included.
EXPORT_SECONDS = 5.0

_CONTEXT_HEADERS = (b"traceparent", b"tracestate")
_HOPS = TraceContextTextMapPropagator()

_log = logging.getLogger(__name__)


class OtlpTracer:
    """See `shared.tracing.tracer_to`."""

    def __init__(
        self,
        url: str,
        *,
        share: float,
        resource: Mapping[str, str],
        dropped: Dropped,
    ) -> None:
        exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS)
        self._sending = Sending(exporter, dropped)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource(dict(resource)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._sending)
        self._tracer = self._provider.get_tracer("tandem")

    def serve(self, name: str, headers: Headers) -> Span:
        """See `Tracer`."""
        span = self._tracer.start_span(
            name, context=_parent(headers), kind=trace.SpanKind.SERVER, record_exception=False
        )
        return _OtlpSpan(self._tracer, span)

    def close(self, seconds: float) -> None:
        """See `Tracer`."""
        self._sending.close(seconds)


class _OtlpSpan(Span):
    __slots__ = ("_failed", "_holders", "_span", "_sums", "_tracer")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._sums: dict[str, float] = {}
        self._holders = 1
        self._failed = False

    @property
    def recording(self) -> bool:
        return self._span.is_recording()

    @property
    def trace_id(self) -> str | None:
        return f"{self._span.get_span_context().trace_id:032x}"

    def child(self, name: str) -> Span:
        parent = trace.set_span_in_context(self._span, Context())
        kind = trace.SpanKind.CLIENT
        return _OtlpSpan(self._tracer, self._tracer.start_span(name, context=parent, kind=kind))

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        # What goes on after a request's end, such as an upload, may still tell of it.
        if self.recording:
            self._span.set_attributes(attributes)

    def add(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0) + value

    def event(self, name: str, seconds: float) -> None:
        if self.recording:
            self._span.add_event(name, {"tandem.seconds": seconds})

    def fail(self, code: str) -> None:
        if self.recording and not self._failed:
            self._failed = True
            self._span.set_attribute("error.type", code)
            self._span.set_status(trace.StatusCode.ERROR, code)

    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        context = self._span.get_span_context()
        told = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        headers = [(b"traceparent", told.encode())]
        if context.trace_state:
            headers.append((b"tracestate", context.trace_state.to_header().encode()))
        return headers

    def hold(self) -> None:
        self._holders += 1

    def end(self) -> None:
        self._holders -= 1
        if not self._holders and self.recording:
            self._span.set_attributes(self._sums)
            self._span.end()


class Sending(SpanProcessor):
    """A thread that sends what has ended, a batch at a time.

    The one that comes with OpenTelemetry drops spans without saying how many, and has no end by a
    given time.
    """

    def __init__(self, exporter: SpanExporter, dropped: Dropped) -> None:
        self._exporter = exporter
        self._dropped = dropped
        self._waiting: deque[ReadableSpan] = deque()
        self._news = threading.Event()
        self._closing = False
        self._taken = True
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Have a span sent, if it is to be and there is room."""
        if not span.context.trace_flags.sampled:
            return
        if self._closing or len(self._waiting) >= MOST_WAITING:
            self._dropped(1)
            return
        self._waiting.append(span)
        if len(self._waiting) >= BATCH:
            self._news.set()

    def close(self, seconds: float) -> None:
        """Send what waits, in so many seconds at most."""
        self._closing = True
        self._news.set()
        self._thread.join(seconds)
        self._exporter.shutdown()

    def _work(self) -> None:
        closing = False
        while not closing:
            self._news.wait(PAUSE_SECONDS)
            self._news.clear()
            closing = self._closing
            while self._waiting and self._send():
                pass
        self._dropped(len(self._waiting))

    def _send(self) -> bool:
        """Send a batch; false where it was not taken."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
        if not taken:
            self._dropped(len(batch))
        if taken != self._taken:
            self._taken = taken
            if taken:
                _log.info("traces are taken again")
            else:
                _log.warning("traces are not taken: they are dropped until they are")
        return taken


def _parent(headers: Headers) -> Context:
    """The span a request says it is part of; none where it does not say it as W3C has it."""
    given = [(name, value.decode("latin-1")) for name, value in headers if name in _CONTEXT_HEADERS]
    parents = [value for name, value in given if name == b"traceparent"]
    if len(parents) != 1:
        return Context()
    states = [value for name, value in given if name == b"tracestate"]
    return _HOPS.extract({"traceparent": parents, "tracestate": states}, Context())
