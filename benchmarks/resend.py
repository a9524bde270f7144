"""The naive split of the paper: every request for a token carries the whole prefix once more.

A transport below the edge's client: the edge believes it sends what is new, and the cloud is sent
everything from position 0 on. The cloud keeps its KV, as the paper's naive cloud must have (its
pass takes about as long as one that catches up on nothing).
"""

from dataclasses import dataclass, field, replace

import httpx

from shared.protocol.messages import Block, Close
from shared.protocol.version import PATH_BLOCKS, PATH_CLOSE
from shared.protocol.wire import decode, encode
from shared.quantization import CodedRows

# Frames come from our own edge; the bound only has to be beyond any of them.
LARGEST_FRAME = 1 << 30


@dataclass(slots=True)
class _Sent:
    """What one session has sent so far: its tokens, its coded states, the digest before them."""

    parent: bytes
    tokens: tuple[int, ...]
    states: CodedRows


@dataclass(slots=True)
class Resending(httpx.AsyncBaseTransport):
    """Sends through `inner`, blocks made whole again.

    Args:
        hidden: values in a state.
    """

    inner: httpx.AsyncBaseTransport
    hidden: int
    _sessions: dict[str, _Sent] = field(default_factory=dict)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, with the prefix where it is a block with states."""
        if request.url.path in (PATH_BLOCKS, PATH_CLOSE):
            message = decode(await request.aread(), limit=LARGEST_FRAME)
            if isinstance(message, Close):
                self._sessions.pop(message.session, None)
            elif isinstance(message, Block) and message.states is not None:
                request = _with_body(request, encode(self._whole(message)))
        return await self.inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the transport beneath."""
        await self.inner.aclose()

    def _whole(self, block: Block) -> Block:
        """`block` from position 0 on."""
        assert block.states is not None
        sent = self._sessions.get(block.session)
        if sent is None or block.start == 0:
            rows = CodedRows(block.states.codec, self.hidden)
            sent = self._sessions[block.session] = _Sent(block.parent, (), rows)
        sent.tokens = sent.tokens[: block.start] + block.tokens
        sent.states.truncate(block.start)
        sent.states.append(block.states)
        everything = sent.states.slice(0, len(sent.tokens))
        return replace(block, start=0, parent=sent.parent, tokens=sent.tokens, states=everything)


def _with_body(request: httpx.Request, body: bytes) -> httpx.Request:
    headers = [(k, v) for k, v in request.headers.raw if k.lower() != b"content-length"]
    return httpx.Request(
        request.method, request.url, headers=headers, content=body, extensions=request.extensions
    )
