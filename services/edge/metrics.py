"""Every metric of the edge gateway. Labels come from enums and layer numbers only; nothing here
names a session or a user.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.edge.policy import Mode
from services.edge.quality import QualityMetrics
from shared.decoding.sequence import FinishReason
from shared.errors import TandemError
from shared.web.metrics import ServiceMetrics, expect

TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1, 2.5, 5)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
MODES: tuple[Mode, ...] = get_args(Mode)
OPERATIONS = ("upload", "complete", "stream", "close", "audit")
# How a request to the cloud ends, of what can be listed: any `status_<n>` may come besides.
OUTCOMES = (
    "ok", "cancelled", "refused", "tls", "timeout", "broken", "malformed", "pool", "overloaded",
    "out_of_memory", "mismatch", "draining", "deadline", "fenced", "moved",
    "limited", "unauthorized", "forbidden",
)  # fmt: skip
CODECS = ("fp32", "fp16", "int8", "ids")
# Codes of `shared.errors` a request can end with, and its user leaving.
FAILURES = (
    "invalid", "overloaded", "out_of_memory", "cloud_lost", "mismatch", "compute", "codec_range",
    "internal", "cancelled", "forbidden", "fenced", "draining", "limited",
)  # fmt: skip
REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)


class LinkState(Protocol):
    """What the gauges show of the path to the cloud."""

    @property
    def state(self) -> str:
        """`reachable` where the cloud answers and fits."""

    @property
    def round_trip_seconds(self) -> float | None:
        """Estimated delay, where one is known."""


class EdgeMetrics(ServiceMetrics):
    """The edge's metric objects on one registry, `quality` those of how good its texts are;
    implements `uplink.Observer`.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._tokens(registry)
        self._times(registry)
        self._requests(registry)
        self._cloud(registry)
        self.quality = QualityMetrics(registry)

    def _tokens(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter(
            "tandem_tokens",
            "Tokens given to users, by where they came from",
            ["source", "mode"],
            registry=registry,
        )
        self.repaired = Counter(
            "tandem_repaired_tokens",
            "Tokens an exit had kept that the cloud replaced (parameter `repair`)",
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "tandem_prompt_tokens", "Prompt tokens taken in", registry=registry
        )
        self.prompt_length = Histogram(
            "tandem_request_prompt_tokens",
            "Prompt tokens of a request",
            buckets=TOKENS,
            registry=registry,
        )
        self.generation_length = Histogram(
            "tandem_request_generation_tokens",
            "Tokens generated for a request",
            buckets=TOKENS,
            registry=registry,
        )

    def _times(self, registry: CollectorRegistry) -> None:
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
        for times in (self.first_token, self.inter_token, self.e2e):
            expect(times, MODES)

    def _requests(self, registry: CollectorRegistry) -> None:
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
        self.degraded = Counter(
            "tandem_degraded_requests",
            "Requests that went on without the cloud they should have had",
            registry=registry,
        )
        expect(self.success, get_args(FinishReason))
        expect(self.failures, FAILURES)

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
        expect(self.cloud_requests, OPERATIONS, OUTCOMES)
        expect(self.cloud_duration, OPERATIONS)
        expect(self.uplink, CODECS)
        self.downlink = Counter(
            "tandem_downlink_bytes",
            "Bytes of message bodies received from the cloud",
            registry=registry,
        )
        self.moves = Counter(
            "tandem_session_moves",
            "Times a session went on at another replica of the cloud",
            registry=registry,
        )
        self.serving = Gauge(
            "tandem_cloud_replicas_serving",
            "Replicas of the cloud this edge knows that answer, fit and mean to stay",
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

    def failed(self, error: TandemError) -> None:
        """A request was refused, or its answer broke off."""
        self.failures.labels(reason=error.code).inc()
        self.refused(error)

    def moved(self) -> None:
        """See `uplink.Observer`."""
        self.moves.inc()

    def requested(self, operation: str, outcome: str, seconds: float) -> None:
        """See `uplink.Observer`."""
        self.cloud_requests.labels(operation=operation, outcome=outcome).inc()
        self.cloud_duration.labels(operation=operation).observe(seconds)

    def show(
        self, *, exits: Sequence[int], link: LinkState | None, serving: Callable[[], int] | None
    ) -> None:
        """Begin the tokens of every source at 0, and read the link's gauges from `link` and from
        the count of replicas that are `serving`.
        """
        kept = [f"exit:{layer}" for layer in exits]
        sources: dict[Mode, Sequence[str]] = {
            "standalone": kept,
            "collaborative": [*kept, "cloud", "fallback"],
            "verified": ["draft", "cloud", "fallback"],
            "cloud": ["cloud"],
            "split": ["cloud"],
        }
        for mode, those in sources.items():
            if link is not None or mode == "standalone":
                expect(self.tokens, those, (mode,))
        if serving is not None:
            self.serving.set_function(serving)
        if link is not None:
            self.link_up.set_function(lambda: float(link.state == "reachable"))
            self.round_trip.set_function(lambda: link.round_trip_seconds or 0.0)
