"""The metrics of how good an edge's texts are: what audits see, and what is promised."""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.exits.audit import Audited
from shared.exits.calibration import Text
from shared.web.metrics import expect

AUDITS = ("judged", "dropped", "late", "failed")
RECORDINGS = ("written", "full", "failed", "unclear")


class QualityMetrics:
    """Metric objects on one registry; implements `audit.Observer` and `recording.Observer`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._audits(registry)
        self.target = Gauge(
            "tandem_disagreement_target",
            "Share of tokens that may differ, for requests that name none; 0: there is no target",
            registry=registry,
        )
        self.disagreement = Gauge(
            "tandem_disagreement",
            "Estimated share of tokens that are not the full model's choice (`collaborative`), and "
            "the bounds of its 95 % interval",
            ["bound"],
            registry=registry,
        )
        self.promised_disagreement = Gauge(
            "tandem_target_disagreement",
            "Estimated share of tokens that are not the full model's choice, of the requests for "
            "one calibrated target (greedy, or sampled), from the first on; bound `target` is it",
            ["text", "target", "bound"],
            registry=registry,
        )
        self.promised_tokens = Counter(
            "tandem_target_tokens",
            "Tokens of the requests for one calibrated target, greedy or sampled",
            ["text", "target"],
            registry=registry,
        )
        self.threshold = Gauge(
            "tandem_exit_threshold",
            "Threshold in force at the exit before a layer, for greedy requests that name none",
            ["exit"],
            registry=registry,
        )

    def _audits(self, registry: CollectorRegistry) -> None:
        self.judged = Counter(
            "tandem_judged_tokens",
            "Kept tokens the cloud judged before a token it was asked for",
            registry=registry,
        )
        self.tail = Counter(
            "tandem_tail_tokens",
            "Kept tokens after the last one the cloud was asked for; all where it never was",
            registry=registry,
        )
        self.audited_tokens = Counter(
            "tandem_audited_tokens",
            "Of the tokens of tails, those an audit had judged",
            registry=registry,
        )
        self.audits = Counter(
            "tandem_audits",
            "Requests chosen for an audit that had a tail, by what came of it",
            ["outcome"],
            registry=registry,
        )
        self.audit_bytes = Counter(
            "tandem_audit_bytes",
            "Bytes of message bodies of audits, both ways; in no request's account",
            registry=registry,
        )
        self.recordings = Counter(
            "tandem_exit_traces",
            "Texts an audit had judged to their end, by what became of their traces; none where no "
            "file is named",
            ["outcome"],
            registry=registry,
        )
        expect(self.audits, AUDITS)
        expect(self.recordings, RECORDINGS)

    def audited(self, outcome: str, count: int) -> None:
        """See `audit.Observer`."""
        self.audits.labels(outcome=outcome).inc()
        self.audit_bytes.inc(count)

    def recorded(self, outcome: str) -> None:
        """See `recording.Observer`."""
        self.recordings.labels(outcome=outcome).inc()

    def ended(self, request: Audited) -> None:
        """See `audit.Observer`."""
        self.judged.inc(request.judged)
        self.tail.inc(request.tail)
        self.audited_tokens.inc(request.tail if request.tail_wrong is not None else 0)

    def promised(self, text: Text, target: float, estimate: Callable[[str], float]) -> None:
        """See `audit.Observer`."""
        labels = {"text": text, "target": str(target)}
        self._read(self.promised_disagreement, estimate, **labels)
        self.promised_disagreement.labels(**labels, bound="target").set(target)

    def served(self, text: Text, target: float, tokens: int) -> None:
        """See `audit.Observer`."""
        self.promised_tokens.labels(text=text, target=str(target)).inc(tokens)

    def show(
        self, estimate: Callable[[str], float], thresholds: Callable[[], Mapping[int, float]]
    ) -> None:
        """Read the gauges of disagreement from `estimate` (`value`, `low`, `high`), and those of
        the exits from the thresholds in force, by layer.
        """
        self._read(self.disagreement, estimate)
        for layer in thresholds():
            self.threshold.labels(exit=str(layer)).set_function(
                partial(lambda at: thresholds()[at], layer)
            )

    @staticmethod
    def _read(gauge: Gauge, estimate: Callable[[str], float], **labels: str) -> None:
        for bound in ("value", "low", "high"):
            gauge.labels(**labels, bound=bound).set_function(partial(estimate, bound))
