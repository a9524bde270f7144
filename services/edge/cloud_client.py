"""The seam to the cloud: frames over a kept-alive `httpx.AsyncClient`, and every way it can fail
mapped to our errors.

No `httpx` exception leaves this module. Errors: `CloudLost` where trying again may help (refused,
timed out, 5xx, damaged or unreadable; or, of the reasons `LOCKED_OUT`, when the edge's key is
another), `Unfit` where edge and cloud do not fit, `Fenced` where the
session has gone on elsewhere, `Invalid` where the cloud cannot do what the request asks.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import httpx

from services.edge.refusals import mapped, of_fault, refusal
from services.edge.replicas import Replica
from shared.errors import CloudLost, TandemError, Unfit
from shared.logs import request_id
from shared.protocol.messages import Block, Close, Fault, Report
from shared.protocol.version import (
    HEADER_REQUEST_ID,
    HEADER_TIMEOUT,
    MEDIA_TYPE,
    PATH_BLOCKS,
    PATH_CLOSE,
    PATH_MANIFEST,
    PATH_STREAM,
)
from shared.protocol.wire import decode, encode, frame_length
from shared.tracing import NO_SPAN, Span

_HEADER_BYTES = 8
_PLAIN = ((b"accept-encoding", b"identity"),)
# Attributes of a round trip's span.
BYTES_UP, BYTES_DOWN = "tandem.bytes_up", "tandem.bytes_down"


@dataclass(slots=True)
class Traffic:
    """What one session has put on the wire: bytes of frames up and down."""

    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True, slots=True)
class CloudClient:
    """Speaks the protocol to the replicas of one cloud; a request that names none goes to the
    client's base URL.

    Args:
        http: with base URL and timeouts set; owned by the caller.
        limit: largest report taken, in bytes.
        authorization: what every request is sent with, asked for each.
    """

    http: httpx.AsyncClient
    limit: int
    authorization: Callable[[], bytes] | None = None
    _urls: dict[tuple[httpx.URL | None, str], httpx.URL] = field(default_factory=dict)

    async def manifest(
        self, at: Replica | None = None, *, seconds: float | None = None
    ) -> dict[str, object]:
        """What the cloud says it serves, in so many seconds."""
        timeouts = self.http.timeout if seconds is None else httpx.Timeout(seconds)
        url = self._url(at, PATH_MANIFEST)
        request = self.http.build_request(
            "GET",
            url,
            headers=[*_PLAIN, *self._authorized()],
            timeout=timeouts,
            extensions=_extensions(at, timeouts),
        )
        response, body = await self._whole(request)
        if response.status_code != httpx.codes.OK:
            raise refusal(response.status_code, body, response.headers, self.limit)
        try:
            manifest = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise CloudLost("the cloud's manifest is no JSON", reason="malformed") from error
        if not isinstance(manifest, dict):
            raise CloudLost("the cloud's manifest is no JSON object", reason="malformed")
        return manifest

    async def post(
        self,
        blocks: Sequence[Block],
        traffic: Traffic,
        at: Replica | None = None,
        *,
        seconds: float | None = None,
        span: Span = NO_SPAN,
    ) -> Report:
        """Send blocks of one session in one body; return the report they are answered with, which
        may take so many `seconds`, if these are fewer than the client's.
        """
        body = _body(blocks)
        traffic.bytes_up += len(body)
        span.add(BYTES_UP, len(body))
        response, answer = await self._whole(self._request(PATH_BLOCKS, body, at, seconds, span))
        traffic.bytes_down += len(answer)
        span.add(BYTES_DOWN, len(answer))
        if response.status_code != httpx.codes.OK:
            raise refusal(response.status_code, answer, response.headers, self.limit)
        return self._report(answer, blocks[0].session)

    async def stream(
        self,
        blocks: Sequence[Block],
        traffic: Traffic,
        at: Replica | None = None,
        *,
        span: Span = NO_SPAN,
    ) -> AsyncGenerator[Report]:
        """Send blocks of one session in one body; yield the reports that follow as they come."""
        sent = _body(blocks)
        traffic.bytes_up += len(sent)
        span.add(BYTES_UP, len(sent))
        with mapped():
            request = self._request(PATH_STREAM, sent, at, span=span)
            response = await self.http.send(request, stream=True)
            async with aclosing(response):
                if response.status_code != httpx.codes.OK:
                    body = await self._read(response)
                    traffic.bytes_down += len(body)
                    span.add(BYTES_DOWN, len(body))
                    raise refusal(response.status_code, body, response.headers, self.limit)
                buffer = b""
                async for chunk in _raw(response):
                    traffic.bytes_down += len(chunk)
                    span.add(BYTES_DOWN, len(chunk))
                    buffer += chunk
                    while (length := self._complete(buffer)) is not None:
                        yield self._report(buffer[:length], blocks[0].session)
                        buffer = buffer[length:]
                if buffer:
                    raise CloudLost("the cloud's stream ended within a report", reason="broken")

    async def close(
        self, session: str, revision: int, at: Replica | None = None, *, span: Span = NO_SPAN
    ) -> None:
        """Tell the cloud that a session is over."""
        closing = encode(Close(session=session, revision=revision))
        await self._whole(self._request(PATH_CLOSE, closing, at, span=span))

    async def _whole(self, request: httpx.Request) -> tuple[httpx.Response, bytes]:
        """Send a request; return the answer and its body."""
        with mapped():
            response = await self.http.send(request, stream=True)
            async with aclosing(response):
                return response, await self._read(response)

    async def _read(self, response: httpx.Response) -> bytes:
        """The body of an answer, of which no more is taken in than the largest report has."""
        body = b""
        async for piece in _raw(response):
            body += piece
            if len(body) > self.limit:
                raise CloudLost(
                    f"the cloud's answer is over the limit of {self.limit} bytes",
                    reason="malformed",
                )
        return body

    def _url(self, at: Replica | None, path: str) -> httpx.URL:
        base = at.url if at is not None else None
        url = self._urls.get((base, path))
        if url is None:
            named = path if base is None else str(base).rstrip("/") + path
            url = self._urls[base, path] = self.http.build_request("POST", named).url
        return url

    def _request(
        self,
        path: str,
        body: bytes,
        at: Replica | None,
        seconds: float | None = None,
        span: Span = NO_SPAN,
    ) -> httpx.Request:
        """A request as the client would build it, but for its default headers and for what it would
        find out anew each time: the URL, and which headers are overridden.
        """
        timeouts = self.http.timeout
        if seconds is not None and seconds < (timeouts.read or seconds + 1):
            timeouts = httpx.Timeout(seconds, connect=timeouts.connect)
        return httpx.Request(
            "POST",
            self._url(at, path),
            headers=[*_headers(timeouts.read), *self._authorized(), *span.headers()],
            cookies=self.http.cookies or None,
            content=body,
            extensions=_extensions(at, timeouts),
        )

    def _authorized(self) -> list[tuple[bytes, bytes]]:
        return [(b"authorization", self.authorization())] if self.authorization else []

    def _complete(self, buffer: bytes) -> int | None:
        """Return the length of the first frame of `buffer` once it is all there."""
        if len(buffer) < _HEADER_BYTES:
            return None
        try:
            length = frame_length(buffer, limit=self.limit)
        except TandemError as error:
            raise CloudLost(f"the cloud's stream: {error.message}", reason="malformed") from error
        return length if len(buffer) >= length else None

    def _report(self, frame: bytes, session: str) -> Report:
        try:
            message = decode(frame, limit=self.limit)
        except TandemError as error:
            if error.code == "protocol_version":
                raise Unfit(error.message) from error
            raise CloudLost(f"the cloud's answer: {error.message}", reason="malformed") from error
        if isinstance(message, Fault):
            raise of_fault(message)
        if not isinstance(message, Report) or message.session != session:
            raise CloudLost("the cloud's answer is not this session's report", reason="malformed")
        return message


def _raw(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body of an answer as it arrives. None was asked to be compressed, and of one that is
    nobody knows how much it becomes.
    """
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise CloudLost("the cloud's answer is compressed", reason="malformed")
    return response.aiter_bytes()


def _body(blocks: Sequence[Block]) -> bytes:
    return b"".join(map(encode, blocks))


def _extensions(at: Replica | None, timeouts: httpx.Timeout) -> dict[str, object]:
    """What the transport is told: URL, `Host` and TLS speak of the name; `address` is what to
    connect to.
    """
    told: dict[str, object] = {"timeout": timeouts.as_dict()}
    if at is not None and at.address is not None:
        told["address"] = at.address
    return told


def _headers(seconds: float | None) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"accept", MEDIA_TYPE.encode())]
    if seconds is not None:
        headers.append((HEADER_TIMEOUT.encode(), b"%d" % max(1, int(seconds * 1000))))
    if (rid := request_id.get()) is not None:
        headers.append((HEADER_REQUEST_ID.encode(), rid.encode("latin-1")))
    return headers
