"""Every metric of the edge gateway. Labels come from enums and layer numbers only; nothing here
names a session or a user.
"""

from collections.abc import Callable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1, 2.5, 5)
REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)


class LinkState(Protocol):
    """What the gauges show of the path to the cloud."""

    @property
    def up(self) -> bool:
        """Whether the cloud answers and fits."""

    @property
    def round_trip_seconds(self) -> float | None:
        """Estimated delay, where one is known."""


class EdgeMetrics:
    """The edge's metric objects on one registry; implements `uplink.Observer`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tokens_and_requests(registry)
        self._cloud(registry)
        self._engine(registry)

    def _tokens_and_requests(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter(
            "tandem_tokens",
            "Tokens given to users, by where they came from",
            ["source", "mode"],
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "tandem_prompt_tokens", "Prompt tokens taken in", registry=registry
        )
        self.first_token = Histogram(
            "tandem_time_to_first_token_seconds",
            "Time from request to first token",
            ["mode"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self.inter_token = Histogram(
            "tandem_inter_token_latency_seconds",
            "Time between tokens of a request",
            ["mode"],
            buckets=TOKEN_SECONDS,
            registry=registry,
        )
        self.e2e = Histogram(
            "tandem_e2e_request_latency_seconds",
            "Time from request to last token",
            ["mode"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self.success = Counter(
            "tandem_request_success",
            "Requests finished, by why they ended",
            ["finished_reason"],
            registry=registry,
        )
        self.failures = Counter(
            "tandem_request_failures",
            "Requests that failed, by reason",
            ["reason"],
            registry=registry,
        )
        self.running = Gauge(
            "tandem_num_requests_running", "Requests being served", registry=registry
        )

    def _cloud(self, registry: CollectorRegistry) -> None:
        self.cloud_requests = Counter(
            "tandem_cloud_requests",
            "Requests to the cloud, by operation and outcome",
            ["operation", "outcome"],
            registry=registry,
        )
        self.cloud_duration = Histogram(
            "tandem_cloud_request_duration_seconds",
            "Time a request to the cloud took, as the edge saw it",
            ["operation"],
            buckets=TOKEN_SECONDS,
            registry=registry,
        )
        self.uplink = Counter(
            "tandem_uplink_bytes",
            "Bytes of message bodies sent to the cloud",
            ["codec"],
            registry=registry,
        )
        self.downlink = Counter(
            "tandem_downlink_bytes",
            "Bytes of message bodies received from the cloud",
            registry=registry,
        )
        self.link_up = Gauge(
            "tandem_link_up", "1 while the cloud answers and fits this edge", registry=registry
        )
        self.round_trip = Gauge(
            "tandem_link_round_trip_seconds",
            "Estimated network delay to the cloud and back",
            registry=registry,
        )

    def _engine(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge(
            "tandem_num_requests_waiting", "Proposals queued or in a step", registry=registry
        )
        self.compute = Counter(
            "tandem_compute_seconds", "Seconds the engine was computing", registry=registry
        )
        self.step_rows = Histogram(
            "tandem_step_rows",
            "Rows in an engine step",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
            registry=registry,
        )
        self.build = Info("tandem_build", "Version, model and formats served", registry=registry)

    def requested(self, operation: str, outcome: str, seconds: float) -> None:
        """See `uplink.Observer`."""
        self.cloud_requests.labels(operation=operation, outcome=outcome).inc()
        self.cloud_duration.labels(operation=operation).observe(seconds)

    def stepped(self, seconds: float, rows: int, works: int) -> None:
        """Record one engine step."""
        del works
        self.compute.inc(seconds)
        self.step_rows.observe(rows)

    def watch(self, waiting: Callable[[], int], link: LinkState | None) -> None:
        """Read these gauges from their sources at scrape time."""
        self.waiting.set_function(waiting)
        if link is not None:
            self.link_up.set_function(lambda: float(link.up))
            self.round_trip.set_function(lambda: link.round_trip_seconds or 0.0)
