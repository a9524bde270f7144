"""A collector of traces: takes OTLP over HTTP and keeps the spans for a test to look at."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.apps import PATIENCE


@dataclass(frozen=True, slots=True)
class Seen:
    """A span as it was sent; times in nanoseconds since 1970. `said` is all it came with, as text
    (protobuf's own), and `error` the description of a status that is an error.
    """

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    attributes: dict[str, Any]
    events: tuple[str, ...]
    error: str | None
    start: int
    end: int
    said: str


@dataclass(slots=True)
class Collector:
    """What came in so far; while it is not `taking`, spans are refused for good."""

    url: str
    taking: bool = True
    refused: int = 0
    spans: list[Seen] = field(default_factory=list)

    def wait_for(self, count: int, trace_id: str | None = None) -> list[Seen]:
        """So many spans (of one trace), or more, once they are here."""
        deadline = time.monotonic() + PATIENCE
        while len(found := self.of(trace_id)) < count:
            assert time.monotonic() < deadline, f"{len(found)} spans of {count}: {found}"
            time.sleep(0.02)
        return found

    def of(self, trace_id: str | None) -> list[Seen]:
        """The spans of a trace; without one, of all."""
        return [each for each in list(self.spans) if trace_id in (None, each.trace_id)]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port of this machine."""

    class Take(BaseHTTPRequestHandler):
        """Takes one batch."""

        def do_POST(self) -> None:
            """See `ExportTraceServiceRequest`."""
            body = self.rfile.read(int(self.headers["content-length"]))
            if collector.taking:
                collector.spans += list(_spans(ExportTraceServiceRequest.FromString(body)))
            else:
                collector.refused += 1
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if collector.taking else 400)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        server.daemon_threads = True
        collector = Collector(f"http://127.0.0.1:{server.server_port}/v1/traces")
        serving = Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield collector
        finally:
            server.shutdown()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Seen]:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield Seen(
                    service=resource["service.name"],
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    attributes=_attributes(span.attributes),
                    events=tuple(event.name for event in span.events),
                    error=span.status.message if span.status.code == 2 else None,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    said=f"{resource_spans.resource}{scope_spans.scope}{span}",
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
