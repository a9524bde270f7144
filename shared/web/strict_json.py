"""JSON bodies as one reader only can take them: UTF-8, no name twice, and no more names in an
object than any request has.

Pydantic tells of every unknown name of a body, and 100,000 of them take seconds.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from shared.errors import Malformed

MOST_NAMES = 64


class StrictRoute(APIRoute):
    """A route whose JSON body is read strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        serve = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await serve(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse(await self.body())


def parse(body: bytes) -> Any:
    """Return what the JSON in `body` says.

    Raises:
        Malformed: it is no JSON in UTF-8, nested too deep, or has a doubled name or too many.
    """
    try:
        return json.loads(body.decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Malformed("the body is no valid UTF-8 JSON", field="body") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_NAMES:
        raise Malformed(f"an object has more than {MOST_NAMES} names", field="body")
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed(f"the name {twice[:40]!a} is there twice in an object", field="body")
    return found
