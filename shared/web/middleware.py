"""Pure ASGI middleware of both services: a request id in header and logs, and a bound on request
bodies.

Neither touches response bodies, so streams pass through as they are.
"""

import secrets

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.errors import TooLarge
from shared.logs import request_id
from shared.protocol.version import HEADER_REQUEST_ID
from shared.web.errors import error_body

_ID_HEADER = HEADER_REQUEST_ID.encode()
_LONGEST_ID = 64


class RequestId:
    """Takes the caller's request id, or makes one; it is logged and returned in the same header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request under its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = _header(scope, _ID_HEADER).decode("latin-1")
        usable = 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable()
        rid = given if usable else secrets.token_hex(8)
        token = request_id.set(rid)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_ID_HEADER, rid.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            request_id.reset(token)


class BodyLimit:
    """Refuses a body over `limit` bytes: by its announced length, or where the bytes received pass
    the limit.

    The refusal is sent from here: frameworks turn an error raised while they read a body into one
    of their own.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with its body bounded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = _header(scope, b"content-length") or b"0"
        if announced.isdigit() and int(announced) > self._limit:
            await self._refuse(scope, receive, send)
            return
        received, over = 0, False

        async def bounded() -> Message:
            nonlocal received, over
            message = await receive()
            received += len(message.get("body", b""))
            over = received > self._limit
            return {"type": "http.disconnect"} if over else message

        async def unless_over(message: Message) -> None:
            if not over:
                await send(message)

        try:
            await self._app(scope, bounded, unless_over)
        finally:
            if over:
                await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooLarge(f"the body is over the limit of {self._limit} bytes")
        await JSONResponse(error_body(error), error.status)(scope, receive, send)


def _header(scope: Scope, name: bytes) -> bytes:
    """The last header of a name, in lower case; nothing where there is none."""
    found = b""
    for each, value in scope["headers"]:
        if each == name:
            found = value
    return found
