"""HTTP/1.1 as uvicorn speaks it, for clients nobody has chosen: heads are bounded, arrive in time
or not at all, and what is no request is answered in one line and forgotten.

Stands on uvicorn's `HttpToolsProtocol`, parts of whose inside it relies on: a test names uvicorn's
version where they change.
"""

from hashlib import sha256
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from shared.web import bounds, refusals
from shared.web.bounds import BODY, HEAD, HEAD_BYTES, IDLE, WHOLE
from shared.web.connections import LINGER_SECONDS, Connection, Connections
from shared.web.last_words import LastWords, notice_the_dead

# In the scope's `extensions`: the SHA-256 of the client's certificate (of its DER form), 32 bytes.
CERTIFICATE = "tandem.certificate_sha256"


class _Refused(Exception):
    """Ends the parser's work from within."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        connections: those it is one of.
        before: has taken its place already: its handshake.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: Any = None,
        *,
        connections: Connections,
        before: Connection | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections
        self._before = before
        self._certificate: bytes | None = None
        self._phase = IDLE
        self._timed = False  # in `heads` or `bodies`
        self._deaf = False  # what arrives is not looked at any more
        self._raw = 0  # bytes of the head so far, then those after the head
        self._body = 0
        self._fields = 0  # bytes of the head's whole fields
        self._looked = 0
        self._keep = True
        self._fault: refusals.Refusal | None = None
        self._overheard = 0
        self._serving: RequestResponseCycle | None = None
        self._last_words = cast(Any, LastWords(self))

    # What the event loop calls.

    def connection_made(self, transport: Any) -> None:
        """The connection stands; it may be one too many."""
        super().connection_made(transport)
        notice_the_dead(transport, self._connections.limits.write_seconds)
        tls = transport.get_extra_info("ssl_object")
        shown = tls.getpeercert(binary_form=True) if tls is not None else None
        self._certificate = sha256(shown).digest() if shown else None
        if self._before is not None:
            self._connections.succeed(self._before, self)
        else:
            refusal = self._connections.enter(self, self.client[0] if self.client else "")
            if refusal is not None:
                self._deaf = True
                self._last_words.write(refusal.answer)
                self.linger()

    def data_received(self, data: bytes) -> None:
        """A piece of a request, or of several."""
        if self._deaf:
            self._overheard += len(data)
            if self._overheard > bounds.LINGER_BYTES:
                self.abort()
            return
        self._unset_keepalive_if_required()
        if self._phase == IDLE:
            self._phase, self._raw = HEAD, 0
            self._connections.idle.pop(self, None)
        self._raw += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as if it had not been asked for; what follows is of another protocol.
            self._deaf = True
            self.cycle.keep_alive = False
            self.cycle.transport = self._last_words
            return
        except httptools.HttpParserError:
            self._refuse(self._fault or refusals.MALFORMED)
            return
        if self._phase == HEAD:
            self._await_head()
        elif self._phase == BODY:
            self._await_body()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended; whoever answers on it learns of it."""
        self._connections.leave(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        # With requests waiting behind it, this is not the one that uvicorn tells.
        self._give_up(self._serving)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._connections.stalled[self] = self._connections.clock()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._connections.stalled.pop(self, None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        if self._phase != HEAD:
            self._phase, self._raw = HEAD, 0
        self._fields = 0
        if self._certificate is not None:
            scope = cast(Scope, self.scope)
            scope["extensions"] = {CERTIFICATE: self._certificate}

    def on_url(self, url: bytes) -> None:
        """A piece of its target."""
        self.url += url
        if len(self.url) > bounds.TARGET_BYTES:
            self._stop(refusals.LONG_TARGET)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of its head; trailers come here too, and are dropped."""
        if self._phase != HEAD:
            return
        self._fields += len(name) + len(value) + 4
        if self._fields > HEAD_BYTES or len(self.headers) >= bounds.HEAD_FIELDS:
            self._stop(refusals.LARGE_HEAD)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there: the request is served."""
        if len(self.pipeline) >= bounds.MOST_PIPELINED:
            self._stop(refusals.PIPELINED)
        self._be_timed(None)
        super().on_headers_complete()
        self._phase, self._raw, self._body = BODY, 0, 0
        # An answer that does not wait for the rest of the request is the connection's last.
        self._keep, self.cycle.keep_alive = self.cycle.keep_alive, False
        self.cycle.transport = self._last_words

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has been read to its end."""
        self._phase = WHOLE
        self._be_timed(None)
        cycle = self.cycle
        cycle.transport = self.transport
        if not cycle.response_started:
            cycle.keep_alive = self._keep
        super().on_message_complete()

    # What uvicorn calls.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._serving = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """An answer is written; the client may not have read it."""
        if self._deaf:
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if self.transport.is_closing():
            self._connections.end_within(self, self._connections.limits.write_seconds)
        elif self._phase == WHOLE and self.cycle.response_complete:
            self._phase = IDLE
            self._connections.idle[self] = self._connections.clock()

    def shutdown(self) -> None:
        """The service ends: so does the connection, after the answer under way."""
        self._keep = False
        super().shutdown()

    # What `Connections` calls.

    def late_head(self) -> None:
        """Its head has taken too long."""
        self._refuse(refusals.LATE_HEAD)

    def look_at_body(self) -> None:
        """Its body has been arriving for a while: whether at any pace, if it is let in at all."""
        arrived, self._looked = self._raw - self._looked, self._raw
        least = bounds.LEAST_BYTES_PER_SECOND * self._connections.limits.body_seconds
        if arrived < least and not self.flow.read_paused:
            self._refuse(refusals.LATE_BODY)
        else:
            self._be_timed(self._connections.bodies)

    def close(self) -> None:
        """End, with what is written still going out."""
        if not self.transport.is_closing():
            self.transport.close()
        self._connections.end_within(self, self._connections.limits.write_seconds)

    def abort(self) -> None:
        """End now, whatever is under way."""
        self._connections.leave(self)
        self.transport.abort()

    def linger(self) -> None:
        """Say no more, and let the client finish its sentence: what it sends to a closed connection
        makes it lose the answer.
        """
        self._deaf = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._connections.end_within(self, LINGER_SECONDS)

    def _be_timed(self, queue: dict[Any, float] | None) -> None:
        """Wait in this queue from now on, and in no other."""
        if self._timed:
            self._connections.heads.pop(self, None)
            self._connections.bodies.pop(self, None)
        self._timed = queue is not None
        if queue is not None:
            queue[self] = self._connections.clock()

    def _await_head(self) -> None:
        if self._raw > HEAD_BYTES:
            self._refuse(refusals.LARGE_HEAD)
        elif not self._timed:
            self._be_timed(self._connections.heads)

    def _await_body(self) -> None:
        if self._raw - self._body > HEAD_BYTES + bounds.BYTES_AROUND_ONE * self._body:
            self._refuse(refusals.LARGE_HEAD)
        elif not self._timed:
            self._looked = self._raw
            self._be_timed(self._connections.bodies)

    def _stop(self, refusal: refusals.Refusal) -> None:
        self._fault = refusal
        raise _Refused

    def _refuse(self, refusal: refusals.Refusal) -> None:
        """Answer what is no request, or will not become one; the connection ends."""
        self._deaf = True
        self._connections.refused(refusal.reason)
        serving = self._serving
        if serving is not None and not serving.response_complete:
            if serving is not self.cycle or self._phase != BODY:
                # Those before it are being answered: they were whole. The last word is theirs.
                self.pipeline.clear()
                self.cycle, serving.keep_alive = serving, False
                serving.transport = self._last_words
                self._be_timed(None)
                return
            self._give_up(serving)
            if serving.response_started:
                self.abort()
                return
        self._last_words.write(refusal.answer)
        self.linger()

    def _give_up(self, cycle: RequestResponseCycle | None) -> None:
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
