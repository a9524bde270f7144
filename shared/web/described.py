"""What a route's OpenAPI description says of its refusals, its bodies of bytes and its headers."""

from typing import Any

from pydantic import BaseModel

from shared.protocol.version import MEDIA_TYPE

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_WHY = {
    400: "The body cannot be read.",
    401: "No key, or one that is unknown or has expired.",
    403: "The key does not allow what `field` asks for.",
    404: "There is no such session.",
    409: "Edge and cloud do not fit, or the session has gone on elsewhere.",
    413: "The body is over the limit.",
    415: "The body is announced as another media type.",
    422: "A field is wrong: `field` names it.",
    429: "This caller asks for more than it may: wait for `Retry-After` seconds.",
    503: "No room, or no cloud: wait for `Retry-After` seconds.",
    504: "What was asked for had not begun when its sender stopped waiting.",
}


class Refusal(BaseModel):
    """Every answer that is no success: a sentence, a stable word, and the field at fault."""

    error: str
    error_type: str
    field: str | None = None


def refusals(*statuses: int, frames: bool = False) -> dict[int | str, dict[str, Any]]:
    """The refusals of these statuses, for `responses` of a route; with `frames`, whoever accepts
    frames is refused with one.
    """
    also = {"content": {MEDIA_TYPE: _BYTES}} if frames else {}
    return {status: {"model": Refusal, "description": _WHY[status], **also} for status in statuses}


def content(media_type: str, description: str) -> dict[str, Any]:
    """An answer of bytes or of a stream."""
    return {"description": description, "content": {media_type: _BYTES}}


def frames_in(*headers: dict[str, Any]) -> dict[str, Any]:
    """A request whose body is frames, for `openapi_extra` of a route."""
    body = {"required": True, "content": {MEDIA_TYPE: _BYTES}}
    return {"requestBody": body, "parameters": list(headers)}


def header(name: str, pattern: str, description: str) -> dict[str, Any]:
    """A header a route reads."""
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "description": description, "schema": schema}
