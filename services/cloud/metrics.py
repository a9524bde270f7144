"""Every metric of the cloud service. Labels come from enums only; nothing here names a session
or a user.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.web.metrics import ServiceMetrics, expect

OPERATIONS = ("upload", "catch_up", "complete", "stream", "close")
OUTCOMES = (
    "ok", "cancelled", "overloaded", "out_of_memory", "invalid", "compute", "internal", "draining",
    "deadline",
)  # fmt: skip
MODES = ("collaborative", "verified", "cloud", "split")
CODECS = ("fp32", "fp16", "int8", "ids")
STORE_OPERATIONS = ("claim", "read", "append", "replace", "close")
STORE_OUTCOMES = (
    *("ok", "missing", "fenced", "closed", "behind", "dropped"),
    *("failed", "refused", "skipped", "cancelled"),
)
STORE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
PASS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class CloudMetrics(ServiceMetrics):
    """The cloud's metric objects on one registry; implements `passes.Observer`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._requests(registry)
        self._contexts(registry)
        self._store(registry)
        self._tokens(registry)

    def _requests(self, registry: CollectorRegistry) -> None:
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
        self.uplink = Counter(
            "tandem_uplink_bytes", "Bytes of block bodies received", ["codec"], registry=registry
        )
        self.downlink = Counter(
            "tandem_downlink_bytes", "Bytes of report bodies sent", registry=registry
        )
        self.rewinds = Counter(
            "tandem_rewinds",
            "Blocks answered with the position to send again from: what came before is not here",
            registry=registry,
        )
        expect(self.requests, OPERATIONS, OUTCOMES)
        expect(self.duration, OPERATIONS)
        expect(self.uplink, CODECS)

    def _contexts(self, registry: CollectorRegistry) -> None:
        self.contexts = Gauge("tandem_contexts", "Sessions held", registry=registry)
        self.context_bytes = Gauge(
            "tandem_context_bytes", "Bytes of logs and KV held", registry=registry
        )
        self.context_budget = Gauge(
            "tandem_context_budget_bytes", "Bytes logs and KV may take", registry=registry
        )
        self.created = Counter("tandem_contexts_created", "Sessions opened", registry=registry)
        self.ended = Counter(
            "tandem_contexts_ended",
            "Sessions forgotten: closed by the edge, idle for too long, or for want of room",
            ["reason"],
            registry=registry,
        )
        self.kv_evictions = Counter(
            "tandem_kv_evictions",
            "KV caches of idle sessions dropped for want of room (rebuilt from the log)",
            registry=registry,
        )
        self.prefix_queries = Counter(
            "tandem_prefix_cache_queries",
            "Positions of prompts whose KV was looked for among other sessions'",
            registry=registry,
        )
        self.prefix_hits = Counter(
            "tandem_prefix_cache_hits",
            "Of these positions, those whose KV was there and did not have to be computed",
            registry=registry,
        )
        self.prefix_bytes = Gauge(
            "tandem_prefix_cache_bytes",
            "Bytes of KV of ended sessions, kept for prompts that begin alike",
            registry=registry,
        )
        expect(self.ended, ("closed", "expired", "evicted"))

    def _store(self, registry: CollectorRegistry) -> None:
        self.store_requests = Counter(
            "tandem_store_requests",
            "Questions to the store of logs, by operation and how it answered",
            ["operation", "outcome"],
            registry=registry,
        )
        self.store_duration = Histogram(
            "tandem_store_request_duration_seconds",
            "Time a question to the store of logs took",
            ["operation"],
            buckets=STORE_SECONDS,
            registry=registry,
        )
        self.store_is_up = Gauge(
            "tandem_store_up",
            "1 while the store of logs answers, or there is none; 0 while sessions live in memory"
            " alone",
            registry=registry,
        )
        self.store_damage = Counter(
            "tandem_store_damaged_entries",
            "Entries of stored logs that were not what was stored: asked of the edge again",
            registry=registry,
        )
        self.store_is_up.set(1)
        expect(self.store_requests, STORE_OPERATIONS, STORE_OUTCOMES)
        expect(self.store_duration, STORE_OPERATIONS)

    def _tokens(self, registry: CollectorRegistry) -> None:
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
        self.drafts = Counter(
            "tandem_spec_decode_num_draft_tokens",
            "Drafts of edges the full model looked at (mode verified)",
            registry=registry,
        )
        self.accepted = Counter(
            "tandem_spec_decode_num_accepted_tokens",
            "Of these drafts, those it would have chosen too",
            registry=registry,
        )
        self.tau = Gauge(
            "tandem_numeric_tau",
            "Margin in logits below which two pass shapes may choose differently",
            registry=registry,
        )
        expect(self.tokens, ("cloud",), MODES)

    def passed(self, mode: str, *, judged: int, disagreed: int, decided: int) -> None:
        """See `passes.Observer`."""
        self.judged.inc(judged)
        self.disagreed.inc(disagreed)
        self.tokens.labels(source="cloud", mode=mode).inc(decided)

    def verified(self, *, drafts: int, accepted: int, decided: int) -> None:
        """See `passes.Observer`."""
        self.drafts.inc(drafts)
        self.accepted.inc(accepted)
        self.tokens.labels(source="cloud", mode="verified").inc(decided)

    def shared(self, *, asked: int, found: int) -> None:
        """See `passes.Observer`."""
        self.prefix_queries.inc(asked)
        self.prefix_hits.inc(found)

    def rewound(self) -> None:
        """See `passes.Observer`."""
        self.rewinds.inc()

    def store_answered(self, operation: str, outcome: str, seconds: float) -> None:
        """See `contexts.guard.Observer`."""
        self.store_requests.labels(operation=operation, outcome=outcome).inc()
        if outcome != "skipped":
            self.store_duration.labels(operation=operation).observe(seconds)

    def store_up(self, up: bool) -> None:
        """See `contexts.guard.Observer`."""
        self.store_is_up.set(up)

    def store_damaged(self, entries: int) -> None:
        """See `contexts.guard.Observer`."""
        self.store_damage.inc(entries)

    def changed(self, change: str) -> None:
        """A context was opened, ended, or lost its KV (`contexts.Change`)."""
        if change == "opened":
            self.created.inc()
        elif change == "kv_evicted":
            self.kv_evictions.inc()
        else:
            self.ended.labels(reason=change).inc()

    def show(
        self,
        *,
        contexts: Callable[[], int],
        nbytes: Callable[[], int],
        prefix_bytes: Callable[[], int],
        budget_bytes: int,
    ) -> None:
        """Read the contexts' gauges from their store when Prometheus asks."""
        self.prefix_bytes.set_function(prefix_bytes)
        self.contexts.set_function(contexts)
        self.context_bytes.set_function(nbytes)
        self.context_budget.set(budget_bytes)
