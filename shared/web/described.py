"""What a service's OpenAPI document says of its refusals, its bodies of bytes, its headers and who
may ask for what.

What every route may be answered, and what it takes to come in, is the same all over: `describe`
puts it into a document. A route says what else it may answer.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from shared.protocol.version import MEDIA_TYPE
from shared.web.access import CALLER, PUBLIC, Rules

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_WHY = {
    400: "The body or the request cannot be read.",
    401: "No key, or one that is unknown or has expired.",
    403: "The key does not allow what `field` asks for.",
    404: "There is no such session.",
    408: "The request did not arrive in time.",
    409: "Edge and cloud do not fit, or the session has gone on elsewhere.",
    413: "The body is over the limit.",
    414: "The target is over the limit.",
    415: "The body is announced as another media type.",
    422: "A field is wrong: `field` names it.",
    429: "This caller asks for more than it may: wait for `Retry-After` seconds.",
    431: "The headers are over the limit.",
    500: "A fault of this service.",
    503: "No room, or no cloud: wait for `Retry-After` seconds.",
    504: "What was asked for had not begun when its sender stopped waiting.",
}
# What is wrong with a message, beyond that it is none.
_OF_MESSAGES = (
    *("checksum", "codec", "conflict", "drafts", "field", "position", "protocol_version"),
    *("scales", "shape", "token", "truncated", "values"),
)
_WORDS: dict[int, tuple[str, ...]] = {
    400: ("malformed", *_OF_MESSAGES),
    401: ("unauthorized",),
    403: ("forbidden",),
    404: ("not_found",),
    408: ("timeout",),
    409: ("fenced", "mismatch"),
    413: ("too_large",),
    414: ("too_large",),
    415: ("media_type",),
    422: ("codec_range", "invalid", "validation"),
    429: ("limited",),
    431: ("too_large",),
    500: ("bad_model", "compute", "internal"),
    503: ("cloud_lost", "draining", "mismatch", "out_of_memory", "overloaded"),
    504: ("deadline",),
}
# Answered before a route is asked, or where one fails.
_ANYWHERE = (400, 408, 413, 414, 429, 431, 500, 503)
# Answered below the application, which alone knows of frames.
_BELOW = (408, 414, 431)
_SECONDS = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
_SCHEME = {"description": "What to come in with.", "schema": {"const": "Bearer"}}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, **_SCHEME}},
    429: {"Retry-After": {"required": True, **_SECONDS}},
    503: {"Retry-After": _SECONDS},
}
_SCHEMES = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of this service's file of keys. A deployment may let callers without "
        "one do some of it, and take a client certificate instead.",
    }
}


class Refusal(BaseModel):
    """Every answer that is no success: a sentence, a stable word, and the field at fault."""

    error: str
    error_type: str
    field: str | None = None


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of these statuses, for `responses` of a route, beside those of any route."""
    return {status: _refusal(status) for status in statuses}


def describe(app: FastAPI, rules: Rules) -> None:
    """Have the document of `app` say what any of its routes may be answered, and which take a key
    with which scope.
    """
    made = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = made()
            components = found.setdefault("components", {})
            components["securitySchemes"] = _SCHEMES
            components.setdefault("schemas", {})["Refusal"] = Refusal.model_json_schema()
            for path, operations in found["paths"].items():
                for method, operation in operations.items():
                    _complete(operation, rules[method.upper(), path])
        return app.openapi_schema or {}

    app.openapi = document  # type: ignore[method-assign]  # as FastAPI would have it extended


def _complete(operation: dict[str, Any], rule: str) -> None:
    public = rule == PUBLIC
    scoped = not public and rule != CALLER
    operation["security"] = [] if public else [{"key": [rule] if scoped else []}]
    told: dict[str, Any] = operation["responses"]
    door = () if public else (401, 403) if scoped else (401,)
    for status in (*_ANYWHERE, *door):
        told.setdefault(str(status), _refusal(status))
    operation["responses"] = dict(sorted(told.items()))


def _refusal(status: int) -> dict[str, Any]:
    words = {"properties": {"error_type": {"enum": sorted(_WORDS[status])}}}
    schema = {"allOf": [{"$ref": "#/components/schemas/Refusal"}, words]}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if status not in _BELOW:  # whoever accepts frames is refused with one
        content[MEDIA_TYPE] = _BYTES
    headers = _HEADERS.get(status)
    also = {"headers": headers} if headers else {}
    return {"description": _WHY[status], "content": content, **also}


def content(media_type: str, description: str) -> dict[str, Any]:
    """An answer of bytes or of a stream."""
    return {"description": description, "content": {media_type: _BYTES}}


def events(model: type[BaseModel]) -> dict[str, Any]:
    """The content of an answer that is server-sent events of this model, or a refusal; whatever it
    is made of has to be in the document besides.
    """
    event = model.model_json_schema(ref_template="#/components/schemas/{model}")
    event.pop("$defs", None)
    told = {"anyOf": [event, {"$ref": "#/components/schemas/Refusal"}]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": told}
    item = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {"text/event-stream": {"itemSchema": item}}


def frames_in(*headers: dict[str, Any]) -> dict[str, Any]:
    """A request whose body is frames, for `openapi_extra` of a route."""
    body = {"required": True, "content": {MEDIA_TYPE: _BYTES}}
    return {"requestBody": body, "parameters": list(headers)}


def header(name: str, pattern: str, description: str) -> dict[str, Any]:
    """A header a route reads."""
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "description": description, "schema": schema}
