"""Answers given below the application, where no request has come of what a client sent: complete
bytes, after which the connection ends.
"""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer, and the word it is counted under (`tandem_connections_refused_total`)."""

    reason: str
    answer: bytes


def _refusal(
    reason: str, status: HTTPStatus, error_type: str, message: str, retry_after: int | None = None
) -> Refusal:
    body = json.dumps({"error": message, "error_type": error_type}, separators=(",", ":"))
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    if retry_after is not None:
        head.append(f"retry-after: {retry_after}")
    return Refusal(reason, "\r\n".join([*head, "", body]).encode("ascii"))


FULL: Final = _refusal(
    "full",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "overloaded",
    "as many connections as are served at once are in use",
    retry_after=1,
)
ADDRESS_FULL: Final = _refusal(
    "address",
    HTTPStatus.TOO_MANY_REQUESTS,
    "limited",
    "your address has as many connections as it may",
    retry_after=1,
)
LARGE_HEAD: Final = _refusal(
    "large_head",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "too_large",
    "the headers are over the limit of 32 KiB or of 100 fields",
)
LONG_TARGET: Final = _refusal(
    "large_head",
    HTTPStatus.REQUEST_URI_TOO_LONG,
    "too_large",
    "the target is over the limit of 8 KiB",
)
LATE_HEAD: Final = _refusal(
    "late_head",
    HTTPStatus.REQUEST_TIMEOUT,
    "timeout",
    "the request's head did not arrive in time",
)
LATE_BODY: Final = _refusal(
    "late_body",
    HTTPStatus.REQUEST_TIMEOUT,
    "timeout",
    "the request's body arrived too slowly",
)
MALFORMED: Final = _refusal(
    "malformed", HTTPStatus.BAD_REQUEST, "malformed", "this is no valid HTTP/1.1 request"
)
PIPELINED: Final = _refusal(
    "pipelined",
    HTTPStatus.TOO_MANY_REQUESTS,
    "limited",
    "too many requests were sent before their answers",
    retry_after=1,
)

# What ends a connection without an answer, besides.
UNREAD: Final = "unread"  # nobody reads an answer
HANDSHAKE: Final = "handshake"  # no TLS came about
EVICTED: Final = "evicted"  # idle, and another needed its place

REASONS: Final = (
    *(each.reason for each in (FULL, ADDRESS_FULL, LARGE_HEAD, LATE_HEAD, LATE_BODY, MALFORMED)),
    *(PIPELINED.reason, UNREAD, HANDSHAKE, EVICTED),
)
