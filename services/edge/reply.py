"""An answer of HTTP/1.1 as its bytes arrive: head, pieces of body, and whether it is whole.

Sans I/O. Parsed by llhttp (`httptools`), which refuses what two readers could take for two
different things (RFC 9112, 6.3 and 11.2): doubled lengths, a length beside chunks, bare line feeds.
"""

from collections import deque

import httptools
import httpx

# Bytes of an answer that are no body, one after the other: its head, the size of a chunk, trailers.
LONGEST_HEAD = 64 * 1024


class Reply:
    """The answer to one request; fed until it is `over`.

    `begun` is true once the head has come, `reusable` where another request may follow on the
    connection, `unread` how many bytes of body wait in `parts`.
    """

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.version = "1.1"
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: deque[bytes] = deque()
        self.unread = 0
        self.begun = False
        self.over = False
        self.reusable = False
        self._framing = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take in what arrived.

        Raises:
            httpx.RemoteProtocolError: it is no answer of HTTP/1.1.
        """
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise httpx.RemoteProtocolError("the server changes the protocol") from error
        except httptools.HttpParserError as error:
            # What follows an answer that is whole has ended the connection's use by its begin.
            if not self.over:
                raise httpx.RemoteProtocolError(f"no answer of HTTP/1.1: {error}") from error
        if self._framing > LONGEST_HEAD and not self.over:
            raise httpx.RemoteProtocolError(f"a head of more than {LONGEST_HEAD} bytes")
        if self.begun and self.version not in ("1.0", "1.1"):
            raise httpx.RemoteProtocolError(f"an answer of HTTP/{self.version}")

    def take(self) -> bytes:
        """The oldest piece of body that was not taken yet; there must be one."""
        part = self.parts.popleft()
        self.unread -= len(part)
        return part

    def end(self) -> bool:
        """Nothing more will come: whether the answer is whole, as one is that has no length."""
        if self.begun and not self.over:
            named = {name.lower() for name, _ in self.headers}
            self.over = not named & {b"content-length", b"transfer-encoding"}
        return self.over

    # What llhttp calls, by these names.

    def on_message_begin(self) -> None:
        """A head begins: of this answer, of what announces it (1xx), or of one too many."""
        if self.over:
            self.reusable = False
        else:
            self.reason, self.headers = b"", []

    def on_status(self, reason: bytes) -> None:
        """A part of the reason phrase."""
        if not self.begun:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are dropped."""
        if not self.begun:
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is there; one of 1xx is followed by another."""
        if not self.begun:
            self.status = self._parser.get_status_code()
            self.version = self._parser.get_http_version()
            self.begun = self.status >= 200

    def on_body(self, body: bytes) -> None:
        """A piece of body."""
        if not self.over:
            self._framing = 0
            self.parts.append(body)
            self.unread += len(body)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it only announced one."""
        if self.begun and not self.over:
            self.over = True
            self.reusable = self._parser.should_keep_alive()
