"""The error tree of both services: each error has a code, an HTTP status and whether a retry is
safe.

It knows neither HTTP libraries nor the wire; `shared.web` renders these and
`services.edge.cloud_client` raises them.

    TandemError
    ├── Invalid            422  a field of a request is wrong: `field` names it
    ├── Malformed          400  bytes that are no message of this protocol
    ├── TooLarge           413  a body or a message over its limit
    ├── Unauthorized       401  no key, or one that is not known or has expired
    ├── Forbidden          403  the caller's key does not allow what `field` asks for
    ├── NotFound           404  no such session
    ├── Mismatch           409  edge and cloud do not fit: `differences` says what differs
    ├── Fenced             409  the session has gone on elsewhere: `revision` says how far
    ├── DeadlinePassed     504  whoever asked has given up waiting
    ├── Limited            429  this caller asks for more than it may: see `retry_after`
    ├── Overloaded         503  no room now; retry after `retry_after` seconds
    ├── OutOfMemory        503  the KV budget is spent
    ├── Draining           503  this service is about to end: ask another
    ├── Unfit              503  the cloud refuses this edge, or the edge this cloud: they do not fit
    ├── CloudLost          503  no usable answer from the cloud
    ├── CodecRange         422  a hidden state is beyond the request's codec (a ComputeError)
    ├── ComputeError       500  the model produced numbers that are not finite
    └── BadModel           500  a checkpoint or bundle that cannot be served
"""

from collections.abc import Mapping

# Characters of a message and of a field's name: what is wrong may be as long as a request.
MOST_TOLD, MOST_NAMED = 1000, 200


def shortened(text: str, most: int) -> str:
    """`text`, or its beginning and an ellipsis in `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


class TandemError(Exception):
    """Base of every error Tandem raises on purpose.

    Args:
        message: one sentence for a person, naming what was wrong; cut where it is long.
        code: a stable machine-readable word; defaults to the class's own.
        field: the request field at fault, where there is one.
        retry_after: seconds after which a retry may succeed.
    """

    code = "internal"
    status = 500
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message := shortened(message, MOST_TOLD))
        self.message = message
        self.field = None if field is None else shortened(field, MOST_NAMED)
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class Invalid(TandemError):
    """A field of a request holds a value outside its allowed range."""

    code = "invalid"
    status = 422


class Malformed(TandemError):
    """Bytes that cannot be read as a message of this protocol."""

    code = "malformed"
    status = 400


class TooLarge(TandemError):
    """A body, message or field over its stated limit."""

    code = "too_large"
    status = 413


class Unauthorized(TandemError):
    """Nobody this service knows: no key was sent, or one that is unknown or has expired."""

    code = "unauthorized"
    status = 401


class Forbidden(TandemError):
    """The caller may not ask for this: no key, or one without the scope."""

    code = "forbidden"
    status = 403


class NotFound(TandemError):
    """The session named does not exist (or never belonged to the caller)."""

    code = "not_found"
    status = 404


class Mismatch(TandemError):
    """Edge and cloud do not fit; `differences` maps each property to (edge's, cloud's)."""

    code = "mismatch"
    status = 409

    def __init__(self, differences: Mapping[str, tuple[object, object]]) -> None:
        listed = "; ".join(f"{k}: edge has {a}, cloud has {b}" for k, (a, b) in differences.items())
        super().__init__(f"edge and cloud do not fit: {listed}")
        self.differences = dict(differences)


class Limited(TandemError):
    """One caller's own limit; others are served."""

    code = "limited"
    status = 429
    retryable = True

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after)


class Overloaded(TandemError):
    """A bounded queue or store is full."""

    code = "overloaded"
    status = 503
    retryable = True

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class Fenced(TandemError):
    """A request on behalf of an earlier revision of a session than the newest known."""

    code = "fenced"
    status = 409

    def __init__(self, revision: int) -> None:
        super().__init__(f"the session has gone on elsewhere, at revision {revision}")
        self.revision = revision


class DeadlinePassed(TandemError):
    """Work that had not begun when whoever asked for it stopped waiting."""

    code = "deadline"
    status = 504
    retryable = True


class Draining(Overloaded):
    """A service that is about to end takes nothing new."""

    code = "draining"


class OutOfMemory(Overloaded):
    """The byte budget for KV or contexts is spent."""

    code = "out_of_memory"


class Unfit(TandemError):
    """Edge and cloud do not fit each other: a fault of the deployment, not of the request."""

    code = "mismatch"
    status = 503


class CloudLost(TandemError):
    """No usable answer from the cloud: refused, timed out, failed, or not understood."""

    code = "cloud_lost"
    status = 503
    retryable = True

    def __init__(self, message: str, *, reason: str, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = reason

    @property
    def of_the_path(self) -> bool:
        """Whether the path or the whole service failed, not one session's request."""
        return self.reason in ("refused", "timeout", "broken", "malformed", "overloaded") or (
            self.reason.startswith("status_")
        )


class ComputeError(TandemError):
    """The model produced values that are not finite."""

    code = "compute"


class CodecRange(ComputeError):
    """A hidden state is beyond what the request's codec can carry: another codec can."""

    code = "codec_range"
    status = 422


class BadModel(TandemError):
    """A checkpoint or bundle that is broken, incomplete or of an unsupported kind."""

    code = "bad_model"


class Abandoned(Exception):
    """A computation nobody wants any more was ended early. No error: whoever gave it up knows."""
