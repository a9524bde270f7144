"""What metrics and a trace are told of one request to the cloud."""

from typing import Protocol

from services.edge.replicas import Replica
from shared import tracing
from shared.tracing import Attribute, Span

# No failures of the cloud: it answered, or nobody waited any more.
_NO_FAILURE = ("ok", "cancelled")


class Observer(Protocol):
    """Told of every request to the cloud, for metrics."""

    def requested(self, operation: str, outcome: str, seconds: float) -> None:
        """A request of this kind ended."""

    def moved(self) -> None:
        """A session went on at another replica."""


def set_out(operation: str, at: Replica) -> Span:
    """Begin the span of a request of this kind to a replica, as a part of the user's."""
    span = tracing.current().child(f"cloud {operation}")
    if span.recording:
        told: dict[str, Attribute] = {"tandem.operation": operation, "server.address": at.url.host}
        if at.url.port is not None:
            told["server.port"] = at.url.port
        if at.address is not None:
            told["network.peer.address"] = at.address
        span.set(told)
    return span


def came_back(span: Span, outcome: str) -> None:
    """End it, with the word metrics have for how it ended."""
    if span.recording:
        span.set({"tandem.outcome": outcome})
        if outcome not in _NO_FAILURE:
            span.fail(outcome)
    span.end()
