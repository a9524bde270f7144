"""Every metric of the cloud service. Labels come from enums only; nothing here names a session
or a user.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

PASS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class CloudMetrics:
    """The cloud's metric objects on one registry; implements `completion.Observer`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._sessions(registry)
        self._engine(registry)

    def _sessions(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tandem_cloud_requests",
            "Requests served, by operation and outcome",
            ["operation", "outcome"],
            registry=registry,
        )
        self.duration = Histogram(
            "tandem_cloud_request_duration_seconds",
            "Time from a block's arrival to its report (to the last report of a stream)",
            ["operation"],
            buckets=PASS_SECONDS,
            registry=registry,
        )
        self.running = Gauge(
            "tandem_num_requests_running", "Requests being served", registry=registry
        )
        self.uplink = Counter(
            "tandem_uplink_bytes", "Bytes of block bodies received", ["codec"], registry=registry
        )
        self.downlink = Counter(
            "tandem_downlink_bytes", "Bytes of report bodies sent", registry=registry
        )
        self.contexts = Gauge("tandem_contexts", "Sessions held", registry=registry)
        self.context_bytes = Gauge(
            "tandem_context_bytes", "Bytes of logs and KV held", registry=registry
        )

    def _engine(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter(
            "tandem_tokens", "Tokens chosen here", ["source", "mode"], registry=registry
        )
        self.judged = Counter(
            "tandem_judged_tokens",
            "Tokens kept on an edge that the full model looked at",
            registry=registry,
        )
        self.disagreed = Counter(
            "tandem_disagreed_tokens",
            "Of the judged tokens, those it would not have chosen",
            registry=registry,
        )
        self.waiting = Gauge(
            "tandem_num_requests_waiting", "Passes queued or in a step", registry=registry
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
        self.tau = Gauge(
            "tandem_numeric_tau",
            "Margin in logits below which two pass shapes may choose differently",
            registry=registry,
        )
        self.build = Info("tandem_build", "Version, model and formats served", registry=registry)

    def passed(self, mode: str, *, judged: int, disagreed: int, decided: int) -> None:
        """See `completion.Observer`."""
        self.judged.inc(judged)
        self.disagreed.inc(disagreed)
        self.tokens.labels(source="cloud", mode=mode).inc(decided)

    def stepped(self, seconds: float, rows: int, works: int) -> None:
        """Record one engine step."""
        del works
        self.compute.inc(seconds)
        self.step_rows.observe(rows)

    def watch(
        self, *, waiting: Callable[[], int], contexts: Callable[[], int], nbytes: Callable[[], int]
    ) -> None:
        """Read these gauges from their sources at scrape time."""
        self.waiting.set_function(waiting)
        self.contexts.set_function(contexts)
        self.context_bytes.set_function(nbytes)
