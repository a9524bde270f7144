"""Renders the error tree of `shared.errors` as HTTP: JSON for people, a fault frame for peers of
the protocol.
"""

import logging
import math

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from shared import tracing
from shared.errors import MOST_NAMED, MOST_TOLD, Fenced, TandemError, Unauthorized, shortened
from shared.protocol.messages import Fault
from shared.protocol.version import MEDIA_TYPE
from shared.protocol.wire import encode
from shared.web import ranges

# What FastAPI says where a body cannot be decoded; it names neither body nor encoding.
_UNPARSED = "There was an error parsing the body"

_log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a body of the one shape `{"error", "error_type", ...}`."""
    app.add_exception_handler(TandemError, _on_tandem_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unforeseen)


def fault_of(error: TandemError) -> Fault:
    """The wire's form of an error."""
    return Fault(
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        field=error.field,
        revision=error.revision if isinstance(error, Fenced) else None,
    )


def error_body(error: TandemError) -> dict[str, object]:
    """The JSON form of an error, of text-generation-inference's shape."""
    body: dict[str, object] = {"error": error.message, "error_type": error.code}
    if error.field is not None:
        body["field"] = error.field
    return body


def answer_to(request: Request, error: TandemError) -> Response:
    """The answer to a request that failed."""
    tracing.current().fail(error.code)
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if error.status >= 500 and not error.retryable:
        _log.error("request failed", extra={"path": request.url.path, "code": error.code})
    if request.headers.get("accept") == MEDIA_TYPE:
        return Response(
            encode(fault_of(error)), error.status, media_type=MEDIA_TYPE, headers=headers
        )
    return JSONResponse(error_body(error), error.status, headers=headers)


def answer_to_nobody() -> Response:
    """The answer to a request whose sender has gone."""
    return Response(status_code=499)  # for the access log: nobody is left to read it


def _on_tandem_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TandemError)
    return answer_to(request, error)


def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _no_json()
    path = [part for part in first["loc"] if part != "body"]
    if not path and not _is_json(sent := request.headers.get("content-type", "")):
        return _other_type(sent)
    field = shortened(".".join(map(str, path)), MOST_NAMED) or "body"
    unknown = first["type"] == "extra_forbidden"
    message = f"{field}: {'unknown field' if unknown else first['msg']}"
    if (hint := _allowed(request, path, unknown=unknown)) is not None:
        message = f"{message}; allowed: {hint}"
    message = shortened(message, MOST_TOLD)
    tracing.current().fail("validation")
    return JSONResponse({"error": message, "error_type": "validation", "field": field}, 422)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def _other_type(sent: str) -> Response:
    """A body that was not looked into: what `curl -d` sends is announced as a form."""
    sent = shortened(sent, MOST_NAMED) or "nothing"
    message = f"the body is announced as {sent}: send `Content-Type: application/json`"
    return JSONResponse({"error": message, "error_type": "media_type", "field": "body"}, 415)


def _allowed(request: Request, path: list[object], *, unknown: bool) -> str | None:
    """What the field at `path` of the route's body may hold, or the fields there are instead."""
    route = request.scope.get("route")
    body = getattr(getattr(route, "body_field", None), "field_info", None)
    model = getattr(body, "annotation", None)
    if model is None:
        return None
    describe = ranges.unknown_field if unknown else ranges.allowed
    return describe(request.app.openapi(), model.__name__, path)


def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, TandemError):  # raised while FastAPI read the body
        return answer_to(request, error.__cause__)
    if error.detail == _UNPARSED:
        return _no_json()
    message = shortened(str(error.detail), MOST_TOLD)
    return JSONResponse(
        {"error": message, "error_type": "http"}, error.status_code, headers=error.headers
    )


def _no_json() -> Response:
    message = "the body is no valid UTF-8 JSON"
    return JSONResponse({"error": message, "error_type": "malformed", "field": "body"}, 400)


def _on_disconnect(request: Request, error: Exception) -> Response:
    return answer_to_nobody()


def _on_unforeseen(request: Request, error: Exception) -> Response:
    _log.error("unforeseen error", extra={"path": request.url.path}, exc_info=error)
    return JSONResponse({"error": "internal error", "error_type": "internal"}, 500)
