"""Says what a request's field may hold, read off the service's own OpenAPI description.

Pydantic names the bound that was broken; a person wants the whole range.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

_LOWER = {"minimum": "{} to", "exclusiveMinimum": "above {} to"}
_UPPER = {"maximum": "{}", "exclusiveMaximum": "below {}"}
_REF = "#/components/schemas/"


def allowed(description: Schema, body: str, path: Sequence[object]) -> str | None:
    """Return what the field at `path` of component `body` may hold ("numbers 0 to 1"), if said."""
    schemas: Schema = description.get("components", {}).get("schemas", {})
    found = _field(schemas, schemas.get(body, {}), list(path))
    choices = [_resolved(schemas, c) for c in found.get("anyOf", [found])]
    said = [text for choice in choices if (text := _range(choice)) is not None]
    return said[0] if said else None


def unknown_field(description: Schema, body: str, path: Sequence[object]) -> str | None:
    """Return the names known beside an unknown field at `path`."""
    schemas: Schema = description.get("components", {}).get("schemas", {})
    parent = _field(schemas, schemas.get(body, {}), list(path)[:-1])
    names = sorted(parent.get("properties", {}))
    return ", ".join(names) if names else None


def _field(schemas: Schema, schema: Schema, path: list[object]) -> Schema:
    schema = _resolved(schemas, schema)
    if not path:
        return schema
    step, rest = path[0], path[1:]
    inner = schema.get("items", {}) if isinstance(step, int) else None
    if inner is None:
        inner = schema.get("properties", {}).get(step, {})
    return _field(schemas, inner, rest)


def _resolved(schemas: Schema, schema: Schema) -> Schema:
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith(_REF):
        target: Schema = schemas.get(reference.removeprefix(_REF), {})
        return target
    return schema


def _range(schema: Schema) -> str | None:
    match schema:
        case {"enum": [*values]}:
            return ", ".join(map(str, values))
        case {"type": "string", "maxLength": longest}:
            return f"text of {schema.get('minLength', 0)} to {longest} characters"
        case {"type": "string", "minLength": shortest}:
            return f"text of at least {shortest} character{'s' * (shortest != 1)}"
        case {"type": "array", "maxItems": most}:
            return f"a list of at most {most}"
        case {"type": "boolean"}:
            return "true or false"
        case {"type": ("integer" | "number") as kind}:
            return _between(schema, "whole numbers" if kind == "integer" else "numbers")
    return None


def _between(schema: Schema, kind: str) -> str:
    lower = [text.format(_number(schema[key])) for key, text in _LOWER.items() if key in schema]
    upper = [text.format(_number(schema[key])) for key, text in _UPPER.items() if key in schema]
    if lower and upper:
        return f"{kind} {lower[0]} {upper[0]}"
    if lower:
        return f"{kind} from {lower[0].removesuffix(' to')}"
    return kind


def _number(bound: float) -> str:
    """A bound as a person writes it; the description makes a float of every whole one."""
    return f"{int(bound) if float(bound).is_integer() else bound:,}"
