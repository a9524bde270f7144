"""The way in for the few paths that are asked for every token: to their endpoint without a router.

Routing, and what a framework puts around an endpoint, takes three times what the rest of an answer
does. Errors are answered as everywhere; whatever else is asked goes on to the application.
"""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import TandemError
from shared.web.errors import answer_to, answer_to_nobody

Endpoint = Callable[[Request], Awaitable[Response]]


class Direct:
    """Answers a POST to one of `posts`; middleware, to be added before all other.

    Args:
        posts: endpoints by path. The application routes these paths as well, so that other methods
            are refused as usual.
    """

    def __init__(self, app: ASGIApp, posts: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._posts = posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        endpoint = self._posts.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except TandemError as error:
            response = answer_to(request, error)
        except ClientDisconnect:
            response = answer_to_nobody()
        await response(scope, receive, send)
