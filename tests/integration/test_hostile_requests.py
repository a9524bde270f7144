"""Bytes that are no request, or not yet: each is answered with a 4xx that says so, or as what it
may be taken for; never with a fault, and nothing is left of it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.raw_client import ANSWERED, Heard, say
from tests.support.services import Service, Services, new_services

SHORT = {
    "head_timeout_seconds": "4",
    "body_timeout_seconds": "4",
    "write_timeout_seconds": "2",
    "max_connections": "60",
}
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
END = b"Connection: close\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: "

# What is sent and what is answered; PATH stands for one that takes a body. What is refused for its
# size is sent in few pieces: a slow machine has no time to be late with it.
BY_THE_BYTE = "a body by the byte"
POST = b"POST PATH HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SENT: dict[str, tuple[list[bytes], list[int]]] = {
    "a request": ([GET + END], [200]),
    "two at once": ([GET + b"\r\n" + GET + END], [200, 200]),
    "forty at once": ([(GET + b"\r\n") * 40], [200]),
    "nonsense after one": ([GET + b"\r\n", ANSWERED, b"XXX\r\n\r\n"], [200, 400]),
    "nonsense with one": ([GET + b"\r\nXXX\r\n\r\n"], [200]),
    "half a head": ([GET], [408]),
    "half a head after one": ([GET + b"\r\n", ANSWERED, GET], [200, 408]),
    "empty lines": ([b"\r\n\r\n"], [408]),
    "two lengths": ([POST, b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345"], [400]),
    "the same length twice": ([POST, b"Content-Length: 5\r\n" * 2 + b"\r\n12345"], [400]),
    "a length that is none": ([POST, b"Content-Length: -5\r\n\r\n12345"], [400]),
    "a length beside chunks": ([POST, b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n"], [400]),
    "chunks beside a length": (
        [POST, b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", b"0\r\n\r\n"],
        [400],
    ),
    "a coding that is none": ([POST, b"Transfer-Encoding: cow\r\n\r\n"], [400]),
    "bare line feeds": ([b"GET /healthz HTTP/1.1\nHost: x\n\n"], [400]),
    "a NUL in a value": ([GET + b"X: a\0b\r\n\r\n"], [400]),
    "a NUL in a name": ([GET + b"X\0: b\r\n\r\n"], [400]),
    "a folded line": ([GET + b"X: a\r\n b\r\n\r\n"], [400]),
    "a space before the colon": ([GET + b"X : a\r\n\r\n"], [400]),
    "no value": ([GET + b"X:\r\n" + END], [200]),
    "HTTP/0.9": ([b"GET /healthz\r\n"], [408]),
    "HTTP/9.9": ([b"GET /healthz HTTP/9.9\r\n\r\n"], [400]),
    "HTTP/2": ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"], [400]),
    "TLS": ([b"\x16\x03\x01\x00\xf7\x01\x00\x00\xf3\x03\x03" + b"a" * 200], [400]),
    "WebSocket": ([GET + UPGRADE + b"websocket\r\n\r\n", b"\x81\x00" * 99], [200]),
    "h2c": ([GET + UPGRADE + b"h2c\r\n\r\n"], [200]),
    "CONNECT": ([b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"], [400]),
    "no path": ([b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n"], [400]),
    "bytes in the path": (["GET /ä HTTP/1.1\r\nHost: x\r\n\r\n".encode()], [400]),
    "no text in the path": ([b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n" + END], [404]),
    "a long target": ([b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n"], [414]),
    "101 fields": ([GET + b"a: b\r\n" * 101 + b"\r\n"], [431]),
    "a field of 40 KB": ([GET + b"a: " + b"b" * 40_000 + b"\r\n\r\n"], [431]),
    "a field of 10 MB": ([GET + b"a: ", *[b"b" * 100_000] * 100], [431]),
    "fields of 10 MB": ([GET, *[(b"a: " + b"b" * 900 + b"\r\n") * 30] * 370, b"\r\n"], [431]),
    "a gigabyte announced": ([POST + b"Content-Length: 1000000000\r\n\r\n"], [413]),
    "a body where none is taken": (
        [b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"],
        [404],
    ),
    "half a body": ([POST + b"Content-Length: 1000\r\n\r\n{"], [408]),
    BY_THE_BYTE: ([POST + b"Content-Length: 1000\r\n\r\n", *[b" "] * 999], [408]),
    "a body promised": ([POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"], [100, 408]),
    "large extensions": ([POST + CHUNKED, *[b"1;" + b"e" * 99_999 + b"\r\n \r\n"] * 9], [431]),
    "many extensions": ([POST + CHUNKED, *[(b"1;" + b"e" * 99 + b"\r\n \r\n") * 100] * 10], [431]),
    "large trailers": ([POST + CHUNKED + b"0\r\n", *[b"a: " + b"e" * 9999 + b"\r\n"] * 9], [431]),
    "no chunk": ([POST + CHUNKED, b"zz\r\n"], [400]),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Both services, of little patience; at the end they have nothing left of all this."""
    pair = new_services(tmp_path_factory.mktemp("guarded"), probe_seconds="60", **SHORT)
    pair.cloud.settings = SHORT
    try:
        # The edge looks for the cloud once: it has to be there.
        pair.cloud.start()
        pair.cloud.wait_until_ready()
        pair.edge.start()
        pair.edge.wait_until_ready("reachable")
        yield pair
        for service in (pair.edge, pair.cloud):
            assert service.stop() == 0, service.tail()
    finally:
        pair.edge.abandon()
        pair.cloud.abandon()


@pytest.fixture(params=["edge", "cloud"])
def service(guarded: Services, request: pytest.FixtureRequest) -> Service:
    return guarded.edge if request.param == "edge" else guarded.cloud


def test_what_is_no_request_is_answered_and_the_connection_ends(service: Service) -> None:
    path = b"/generate" if service.role == "edge" else b"/v1/blocks"
    told = service.log.stat().st_size
    with ThreadPoolExecutor(8) as several:
        heard = several.map(lambda pieces: _said(service.port, path, pieces), SENT.values())
        all_heard = dict(zip(SENT, heard, strict=True))
    wrong = []
    for name, (_, statuses) in SENT.items():
        heard_of = all_heard[name]
        early = name != BY_THE_BYTE or heard_of.sent < len(SENT[name][0])
        if heard_of.statuses != statuses or not heard_of.closed or not early:
            wrong.append((name, heard_of))
        elif heard_of.statuses[-1] >= 400:
            assert set(heard_of.body) >= {"error", "error_type"}, name
    assert not wrong
    with Path(service.log).open() as log:
        log.seek(told)
        assert not [line for line in log if "Traceback" in line or '"warning"' in line]


def _said(port: int, path: bytes, sent: tuple[list[bytes], list[int]]) -> Heard:
    pieces = [piece.replace(b"PATH", path) for piece in sent[0]]
    return say(port, *pieces, pause=0.02)
