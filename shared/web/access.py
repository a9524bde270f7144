"""The door of a service, as pure ASGI middleware: whatever no rule names is denied, and of what one
names a caller gets only what it may do.

A stranger's body is never read, and nothing of a refused request is repeated in the answer.
"""

from collections.abc import Mapping
from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from shared.access import Caller, Doorkeeper, Scope, names_another
from shared.errors import Forbidden, TandemError, Unauthorized
from shared.web.errors import answer_to

# What a route takes: nothing, to have come in at all, or a scope.
Rule = Literal["public", "caller"] | Scope
PUBLIC: Final = "public"
CALLER: Final = "caller"
# By method and path; HEAD is as GET.
Rules = Mapping[tuple[str, str], Rule]

# Where whoever ends a TLS connection puts SHA-256 of the client's certificate, as bytes.
CERTIFICATE: Final = "tandem.certificate_sha256"
_NOBODY = Caller()
_REFUSED = 1008  # a WebSocket's close code for what a policy forbids


class Access:
    """Lets callers in and says who they are: `caller_of` tells it within.

    Args:
        doorkeeper: knows the callers.
        rules: every path there is. Others are not asked of the application: 404, or 405 where only
            the method is another, for those who came in; 401 for all others.
    """

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, rules: Rules) -> None:
        self._app = app
        self._doorkeeper = doorkeeper
        self._rules = rules

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Serve one request, if its sender may ask for it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": _REFUSED})
            return
        method, path = scope["method"], scope["path"]
        rule = self._rules.get(("GET" if method == "HEAD" else method, path))
        try:
            caller = self._caller(scope, rule)
        except TandemError as error:
            await answer_to(Request(scope), error)(scope, receive, send)
            return
        if rule is None:
            await self._unknown(path)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _caller(self, scope: Connection, rule: Rule | None) -> Caller:
        """Who asks.

        Raises:
            Unauthorized: it takes a key, or another than the one sent.
            Forbidden: it takes a key that allows more, or was asked for by another machine's name.
        """
        address = client[0] if (client := scope.get("client")) else None
        try:
            caller = self._identified(scope, address)
        except Unauthorized:
            if rule != PUBLIC:
                raise
            return self._doorkeeper.stranger(address)
        if rule is None or rule == PUBLIC:
            return caller
        if self._doorkeeper.here and not caller.known:
            _require_name_of_here(scope)
        if rule == CALLER or caller.may(rule):
            return caller
        if not caller.known:
            raise Unauthorized(f"this takes a key with the scope `{rule}`")
        raise Forbidden(f"this takes the scope `{rule}`, which the key does not have")

    def _identified(self, scope: Connection, address: str | None) -> Caller:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(sent) > 1:
            raise Unauthorized("more than one `Authorization` was sent")
        return self._doorkeeper.identify(
            sent[0].decode("latin-1") if sent else None, certificate_of(scope), address
        )

    def _unknown(self, path: str) -> JSONResponse:
        """What an application answers where it has no such route."""
        allowed = sorted(method for method, known in self._rules if known == path)
        if not allowed:
            return JSONResponse({"error": "Not Found", "error_type": "http"}, 404)
        return JSONResponse(
            {"error": "Method Not Allowed", "error_type": "http"},
            405,
            headers={"allow": ", ".join(allowed)},
        )


def _require_name_of_here(scope: Connection) -> None:
    sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if any(map(names_another, sent)):
        raise Forbidden(
            "without a key this is open to this machine alone, and it was asked for by another's "
            "name in `Host`: set keys, or WITHOUT_KEY, to serve it by that name"
        )


def certificate_of(scope: Connection) -> bytes | None:
    """SHA-256 of the client's certificate (32 bytes), where it showed one."""
    extensions = scope.get("extensions")
    found: bytes | None = extensions.get(CERTIFICATE) if extensions else None
    return found


def caller_of(request: Request) -> Caller:
    """Who asks; where no door was passed, somebody who may do nothing."""
    found = request.scope.get("state", {}).get("caller", _NOBODY)
    return found if isinstance(found, Caller) else _NOBODY
