"""The first thing that becomes of a request for a text, as pure ASGI middleware: whoever asks for
too much, and whatever there is no room for, is turned away before its body is read.

How many tokens it asks for is looked at later, when they have been counted.
"""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from services.edge.load import Load
from services.edge.metrics import EdgeMetrics
from shared.access.limiter import Admission, Limiter
from shared.errors import TandemError
from shared.web.access import caller_of
from shared.web.errors import answer_to

# What is asked for a text.
ADMITTED = frozenset({("POST", "/generate")})


class Admitted:
    """Lets requests for texts in, and holds their place until they have been answered.

    Args:
        limiter: knows what each caller may ask for.
        load: what is being served. Of a caller that may overtake others it is asked later, for the
            class of the request.
    """

    def __init__(self, app: ASGIApp, limiter: Limiter, load: Load, metrics: EdgeMetrics) -> None:
        self._app = app
        self._limiter = limiter
        self._load = load
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, if there is room for it."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) not in ADMITTED:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            admission = self._admit(request)
        except TandemError as error:
            self._metrics.failed(error)
            await answer_to(request, error)(scope, receive, send)
            return
        with admission:
            scope.setdefault("state", {})["admission"] = admission
            await self._app(scope, receive, send)

    def _admit(self, request: Request) -> Admission:
        caller = caller_of(request)
        admission = self._limiter.admit(caller.client, caller.limits)
        if not caller.may("priority"):
            try:
                self._load.require_room("normal")
            except TandemError:
                admission.withdraw()
                admission.leave()
                raise
        return admission


def admission_of(request: Request) -> Admission | None:
    """The place a request was given; none where nobody gives them."""
    found = request.scope.get("state", {}).get("admission")
    return found if isinstance(found, Admission) else None
