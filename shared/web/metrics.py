"""The metrics both services have: requests, the engine and its memory. Suffixes are vLLM's, so that
its users change a prefix. Labels come from enums only; nothing here names a session or a user.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from shared.errors import Draining, Limited, Overloaded, TandemError
from shared.runtime.work import PRIORITIES, Priority, Stepped
from shared.web.connections import Connections
from shared.web.refusals import REASONS

WAIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REFUSALS = ("overloaded", "out_of_memory", "limited")


@dataclass(frozen=True, slots=True)
class Gauges:
    """Where the gauges are read when Prometheus asks.

    `waiting` counts works queued or in a step, `waiting_as` those of a class; `kv_bytes` of
    `kv_budget_bytes` are in use (a budget of None has no end, and the ratio is 0).
    """

    waiting: Callable[[], int]
    waiting_as: Callable[[Priority], int]
    kv_bytes: Callable[[], int]
    kv_budget_bytes: int | None


class ServiceMetrics:
    """Metric objects on one registry; each service adds its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.running = Gauge(
            "tandem_num_requests_running", "Requests being served", registry=registry
        )
        self.waiting = Gauge(
            "tandem_num_requests_waiting", "Works queued or in a step", registry=registry
        )
        self.waiting_as = Gauge(
            "tandem_num_requests_waiting_by_priority",
            "Works queued or in a step, by class",
            ["priority"],
            registry=registry,
        )
        self.queue = Histogram(
            "tandem_request_queue_time_seconds",
            "Time a work (a token's proposal, a pass) waited for its first step, by class",
            ["priority"],
            buckets=WAIT_SECONDS,
            registry=registry,
        )
        self.rows = Counter(
            "tandem_rows", "Rows run in engine steps, by class", ["priority"], registry=registry
        )
        self.parked = Counter(
            "tandem_parked_steps",
            "Engine steps a waiting work was left out of, counted for each",
            registry=registry,
        )
        self.compute = Counter(
            "tandem_compute_seconds", "Seconds the engine was computing", registry=registry
        )
        self.step_rows = Histogram(
            "tandem_step_rows", "Rows in an engine step", buckets=ROWS, registry=registry
        )
        self.kv_usage = Gauge(
            "tandem_kv_cache_usage_ratio", "KV cache in use over its budget", registry=registry
        )
        self.kv_bytes = Gauge("tandem_kv_cache_bytes", "Bytes of KV cache held", registry=registry)
        self.rejections = Counter(
            "tandem_admission_rejections",
            "Requests refused for want of room, or by their caller's own limits, by reason",
            ["reason"],
            registry=registry,
        )
        self.build = Info("tandem_build", "Version, model and formats served", registry=registry)
        self.spans_dropped = Counter(
            "tandem_spans_dropped",
            "Spans of traces that were not sent: no room, or the collector did not take them",
            registry=registry,
        )
        self._connections(registry)
        expect(self.rejections, REFUSALS)
        expect(self.queue, PRIORITIES)
        expect(self.rows, PRIORITIES)

    def _connections(self, registry: CollectorRegistry) -> None:
        self.connections = Gauge(
            "tandem_connections", "Connections of clients, idle ones included", registry=registry
        )
        self.connections_refused = Counter(
            "tandem_connections_refused",
            "Connections ended, or requests refused before they were any, by reason",
            ["reason"],
            registry=registry,
        )
        expect(self.connections_refused, REASONS)

    def started(self, seconds: float, priority: Priority) -> None:
        """Record how long a work waited for its first step."""
        self.queue.labels(priority=priority).observe(seconds)

    def stepped(self, step: Stepped) -> None:
        """Record one engine step."""
        self.compute.inc(step.seconds)
        self.step_rows.observe(sum(step.rows.values()))
        for priority, rows in step.rows.items():
            self.rows.labels(priority=priority).inc(rows)
        self.parked.inc(step.parked)

    def refused(self, error: TandemError) -> None:
        """Record a refusal, if `error` is one for want of room, or one caller's own limit."""
        if isinstance(error, Overloaded | Limited) and not isinstance(error, Draining):
            self.rejections.labels(reason=error.code).inc()

    def read_connections(self, connections: Connections) -> None:
        """Show the connections of this process."""
        self.connections.set_function(lambda: len(connections))
        connections.refused = lambda reason: self.connections_refused.labels(reason=reason).inc()

    def read_from(self, gauges: Gauges) -> None:
        """Read the gauges from their sources when Prometheus asks."""
        budget = gauges.kv_budget_bytes
        self.waiting.set_function(gauges.waiting)
        for priority in PRIORITIES:
            read = partial(gauges.waiting_as, priority)
            self.waiting_as.labels(priority=priority).set_function(read)
        self.kv_bytes.set_function(gauges.kv_bytes)
        self.kv_usage.set_function(lambda: gauges.kv_bytes() / budget if budget else 0.0)


def expect(metric: Counter | Histogram, *labels: Iterable[str]) -> None:
    """Begin every combination of label values at 0, so that a rate sees its first increase."""
    combinations: list[tuple[str, ...]] = [()]
    for values in labels:
        combinations = [(*before, value) for before in combinations for value in values]
    for combination in combinations:
        metric.labels(*combination)
