"""A transport that loses, doubles, delays and damages what goes through it, as a test's script
says.

Wraps another httpx transport; request k suffers `script[k]`, and everything after the script
passes.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum

import httpx


class Fault(StrEnum):
    """What happens to one request."""

    NONE = "none"
    LOSE_REQUEST = "lose request"
    LOSE_ANSWER = "lose answer"
    DOUBLE = "deliver twice"
    LATE = "deliver after the next one"
    DAMAGE_REQUEST = "flip a bit going up"
    DAMAGE_ANSWER = "flip a bit coming down"
    SERVER_ERROR = "answer 500"
    FORGET = "the cloud forgets every session first"


class FaultyTransport(httpx.AsyncBaseTransport):
    """Applies a script of faults to the requests whose path starts with `/v1/blocks`."""

    def __init__(
        self, inner: httpx.AsyncBaseTransport, script: Sequence[Fault], forget: Callable[[], None]
    ) -> None:
        self._inner = inner
        self._script = list(script)
        self._forget = forget
        self._late: list[httpx.Request] = []
        self.bodies: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.startswith("/v1/blocks"):
            return await self._inner.handle_async_request(request)
        body = await request.aread()
        self.bodies.append(body)
        fault = self._script.pop(0) if self._script else Fault.NONE
        answer = await self._suffer(fault, request, body)
        for late in self._take_late(fault):
            await self._deliver(late, late.content)
        return answer

    async def _suffer(self, fault: Fault, request: httpx.Request, body: bytes) -> httpx.Response:
        match fault:
            case Fault.LOSE_REQUEST:
                raise httpx.ConnectError("lost on the way up", request=request)
            case Fault.LATE:
                self._late.append(request)
                raise httpx.ReadError("late", request=request)
            case Fault.LOSE_ANSWER:
                await self._deliver(request, body)
                raise httpx.ReadError("lost on the way down", request=request)
            case Fault.DOUBLE:
                await self._deliver(request, body)
            case Fault.DAMAGE_REQUEST:
                return await self._deliver(request, _flip(body))
            case Fault.DAMAGE_ANSWER:
                answer = await self._deliver(request, body)
                return httpx.Response(answer.status_code, content=_flip(answer.content))
            case Fault.SERVER_ERROR:
                return httpx.Response(500, content=b"boom")
            case Fault.FORGET:
                self._forget()
            case Fault.NONE:
                pass
        return await self._deliver(request, body)

    async def _deliver(self, request: httpx.Request, body: bytes) -> httpx.Response:
        headers = {k: v for k, v in request.headers.items() if k.lower() != "content-length"}
        again = httpx.Request(request.method, request.url, headers=headers, content=body)
        answer = await self._inner.handle_async_request(again)
        content = await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=content)

    def _take_late(self, fault: Fault) -> list[httpx.Request]:
        if fault is Fault.LATE:
            return []
        late, self._late = self._late, []
        return late


def _flip(body: bytes) -> bytes:
    where = len(body) // 2
    return body[:where] + bytes([body[where] ^ 0x10]) + body[where + 1 :]
