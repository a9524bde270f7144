"""Where a request's time goes, over both machines: spans, each with what it is part of.

Whoever has something to tell asks for the `current` span and tells it. Where nothing is traced that
is `NO_SPAN`, which does nothing. `shared.tracing.otlp` makes the others, and alone knows
OpenTelemetry. What a user wrote or was answered, sessions and keys are never told to a span.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from shared import logs
from shared.errors import Invalid

Attribute = str | int | float | bool | Sequence[str]
Headers = Iterable[tuple[bytes, bytes]]


class Span:
    """Something that takes time, within a trace. This one is of none: what it is told is lost."""

    __slots__ = ()

    @property
    def recording(self) -> bool:
        """Whether telling it anything is of use."""
        return False

    @property
    def trace_id(self) -> str | None:
        """The trace it is of, in hexadecimal."""
        return None

    def child(self, name: str) -> "Span":
        """Begin a request to another service, as a part of this."""
        del name
        return self

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        """Tell what it was about; an attribute told again is replaced."""

    def add(self, name: str, value: float) -> None:
        """Tell of one more part of a sum."""

    def event(self, name: str, seconds: float) -> None:
        """Tell that something happened now, after so many seconds."""

    def fail(self, code: str) -> None:
        """Tell that it failed, and by which code of ours; of several the first is kept."""

    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """What the request it stands for carries, for the other service to go on with its trace."""
        return ()

    def hold(self) -> None:
        """Keep it open until `end` has been said once more."""

    def end(self) -> None:
        """End it, unless somebody holds it. What it is told later is lost."""


NO_SPAN = Span()

_current: ContextVar[Span] = ContextVar("span", default=NO_SPAN)


def current() -> Span:
    """The span of the request this is done for; tasks inherit it."""
    return _current.get()


@contextmanager
def within(span: Span) -> Iterator[None]:
    """Make a span the current one, and have its trace on every line of log."""
    tokens = _current.set(span), logs.trace_id.set(span.trace_id)
    try:
        yield
    finally:
        _current.reset(tokens[0])
        logs.trace_id.reset(tokens[1])


class Tracer(Protocol):
    """Begins spans, and sends those that have ended away in the background."""

    def serve(self, name: str, headers: Headers) -> Span:
        """Begin the span of a request that was received, within the trace its headers name."""

    def close(self, seconds: float) -> None:
        """Send what is left, in so many seconds at most; blocks."""


class Dropped(Protocol):
    """Told of spans that were lost, on any thread."""

    def __call__(self, count: float, /) -> None:
        """So many more were."""


def resource_of(service: str, instance: str, version: str) -> Mapping[str, str]:
    """What is told of a service as a whole, in OpenTelemetry's words."""
    names = ("service.name", "service.instance.id", "service.version")
    return dict(zip(names, (service, instance, version), strict=True))


def tracer_to(url: str, *, share: float, resource: Mapping[str, str], dropped: Dropped) -> Tracer:
    """A tracer that sends to a collector (OTLP over HTTP).

    Args:
        share: of the traces that begin here, 0 to 1.
        resource: what is told of this service as a whole.

    Raises:
        Invalid: OpenTelemetry is not installed.
    """
    try:
        from shared.tracing.otlp import OtlpTracer
    except ModuleNotFoundError as error:
        raise Invalid(
            "traces_url is set, but OpenTelemetry is not installed: install the extra `tracing`",
            field="traces_url",
        ) from error
    return OtlpTracer(url, share=share, resource=resource, dropped=dropped)
