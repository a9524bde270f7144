"""Every way a request to the cloud can fail, as one of our errors with a reason that says what to
do: `CloudLost`, `Unfit`, `Fenced` or `Invalid`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from services.edge.tls_failures import tls_failure
from shared.errors import CloudLost, Fenced, Invalid, TandemError, Unfit
from shared.protocol.messages import Fault
from shared.protocol.wire import decode

FAULT_CODES = frozenset(
    {
        *("truncated", "malformed", "checksum", "field", "shape", "scales", "values", "codec"),
        *("token", "position", "drafts", "conflict", "too_large", "overloaded", "out_of_memory"),
        *("internal", "compute", "not_found", "draining", "deadline", "fenced"),
        *("limited", "unauthorized", "forbidden"),
    }
)
_LONGEST_RETRY_SECONDS = 3600.0
# What the cloud says to an edge that may not come in, by status.
LOCKED_OUT = {
    "unauthorized": "the cloud does not know this edge's key (TANDEM_EDGE_CLOUD_KEY_FILE)",
    "forbidden": "this edge's key (TANDEM_EDGE_CLOUD_KEY_FILE) allows no sessions in the cloud",
}
_BY_STATUS = {401: "unauthorized", 403: "forbidden"}


@contextmanager
def mapped() -> Iterator[None]:
    """Turn httpx's errors into ours, most specific first."""
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise CloudLost("connecting to the cloud timed out", reason="timeout") from error
    except httpx.PoolTimeout as error:
        raise CloudLost("no free connection to the cloud", reason="pool") from error
    except httpx.TimeoutException as error:
        raise CloudLost("the cloud did not answer in time", reason="timeout") from error
    except httpx.HTTPError as error:
        if (why := tls_failure(error)) is not None:
            raise CloudLost(f"no TLS with the cloud: {why}", reason="tls") from error
        if isinstance(error, httpx.ConnectError):
            raise CloudLost("the cloud refused the connection", reason="refused") from error
        if isinstance(error, httpx.RemoteProtocolError):
            raise CloudLost("the cloud broke off its answer", reason="broken") from error
        # Its words are its own, and may quote what was sent.
        raise CloudLost("the connection to the cloud failed", reason="broken") from error


def refusal(status: int, body: bytes, headers: httpx.Headers, limit: int) -> TandemError:
    """The error an answer other than 200 stands for."""
    try:
        message = decode(body, limit=limit)
    except TandemError as error:
        if error.code == "protocol_version":
            return Unfit(error.message)
        message = None
    after = headers.get("retry-after", "")
    retry_after = min(float(after), _LONGEST_RETRY_SECONDS) if after.isdecimal() else 1.0
    if (locked := _BY_STATUS.get(status)) is not None:
        return CloudLost(LOCKED_OUT[locked], reason=locked)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return CloudLost(
            "the cloud takes no more of this edge for now",
            reason="limited",
            retry_after=retry_after,
        )
    if not isinstance(message, Fault):
        return CloudLost(
            f"the cloud answered {status}", reason=f"status_{status}", retry_after=retry_after
        )
    if message.code == "fenced":
        return of_fault(message)
    if status == httpx.codes.SERVICE_UNAVAILABLE or message.retryable:
        return CloudLost(message.message, reason=_reason(message), retry_after=retry_after)
    return of_fault(message)


def of_fault(fault: Fault) -> TandemError:
    """The error a fault frame stands for."""
    if fault.code in ("mismatch", "protocol_version"):
        return Unfit(fault.message)
    if fault.code == "fenced":
        return Fenced(fault.revision or 0)
    if fault.code == "invalid":
        return Invalid(fault.message, field=fault.field)
    # Anything else the cloud says of our bytes is damage on the way: the same rows can be sent
    # again.
    return CloudLost(f"the cloud refused a block: {fault.message}", reason=_reason(fault))


def _reason(fault: Fault) -> str:
    """The fault's code if it is one of the protocol's: reasons become labels of metrics."""
    return fault.code if fault.code in FAULT_CODES else "other"
