"""Any bytes, to any route, by any method, under any headers: never a fault of the server."""

import json
import resource
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random

import httpx
import pytest

from shared.protocol.wire import pack
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import sealed
from tests.support.access import RULES
from tests.support.apps import client_of, cloud_app, edge_app, running
from tests.support.results import Figure
from tests.support.size import Size
from tests.unit.cloud.sessions import block
from tests.unit.protocol.strategies import BLOCK, CLOSE

PATHS = {
    "edge": ["/generate", "/generate", "/generate", "/", "/healthz", "/readyz", "/metrics", "/no"],
    "cloud": ["/v1/blocks", "/v1/blocks", "/v1/blocks/stream", "/v1/close", "/v1/manifest", "/x"],
}
METHODS = ["POST", "GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"]
OWN_METHOD = 0.9  # of requests go to a method that their path has
AS_IT_IS = 0.15  # of bodies are what a route takes
TYPES = [b"application/json", b"application/msgpack", b"text/plain", b"", b"a/b;c=\xff", b"\xff"]
NAMES = [
    *(b"authorization", b"x-session-id", b"x-tandem-timeout-ms", b"x-request-id", b"accept"),
    *(b"content-length", b"content-encoding", b"range", b"host", b"cookie", b"traceparent"),
]
VALUES = [
    *(b"", b"1", b"-1", b"9" * 400, b"x" * 5000, b"\xff\xfe", b"bytes=0-1,5-2", b"Bearer x"),
    *(b"application/msgpack", b"gzip", b"\xc2\xb2", b"NaN", b"1e9", b"a\tb", b"00-0-0-0"),
]
SLOWEST_SECONDS = 5.0  # by a clock others stop too; most take a thousandth of it
GROWTH_KIB = 128 << 10


def _seeds(service: str) -> list[tuple[bytes, bool]]:
    if service == "cloud":
        return [(pack(each), True) for each in (block(5), BLOCK, CLOSE)]
    asked = {"inputs": "Once", "parameters": {"max_new_tokens": 1, "details": True, "stop": ["a"]}}
    return [(json.dumps(asked | {"stream": flag}).encode(), False) for flag in (False, True)]


def _body(service: str, random: Random) -> bytes:
    seed, structured = random.choice(_seeds(service))
    if random.random() < AS_IT_IS:
        return sealed(seed, random.choice((1, 1, 3))) if service == "cloud" else seed
    body = mutated(seed, random, structured=structured)
    if service == "cloud" and random.random() < 0.8:
        return sealed(body, random.choice((1, 1, 1, 2, 3, 3, 4, 5)))
    # An answer of as many tokens as the context has is no fault, but long.
    return (
        body.replace(b'"max_new_tokens"', b'"stop": ["a"], "x"') if random.random() < 0.02 else body
    )


def _method(service: str, path: str, random: Random) -> str:
    own = [method for method, known in RULES[service] if known == path]
    return random.choice(own if own and random.random() < OWN_METHOD else METHODS)


def _headers(random: Random) -> list[tuple[bytes, bytes]]:
    kind = random.choice(TYPES[:2] if random.random() < 0.8 else TYPES)
    extra = [
        (random.choice(NAMES), random.choice(VALUES)) for _ in range(random.choice((0, 0, 1, 4)))
    ]
    return [(b"host", b"app"), (b"content-type", kind), *extra]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("service", PATHS)
async def test_no_request_is_a_fault_of_the_server(
    service: str, size: Size, record_figure: Callable[[str, Figure], None]
) -> None:
    random, statuses = Random(service), Counter[int]()
    app = edge_app("") if service == "edge" else cloud_app()
    count = size.pick(short=400, long=10_000)
    slowest, resident = 0.0, 0
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(app))
        client = await stack.enter_async_context(client_of(app))
        for number in range(count):
            path = random.choice(PATHS[service])
            request = httpx.Request(
                _method(service, path, random),
                "http://app" + path,
                headers=_headers(random),
                content=_body(service, random),
            )
            began = time.perf_counter()
            answer = await client.send(request)
            slowest = max(slowest, time.perf_counter() - began)
            statuses[answer.status_code] += 1
            assert answer.status_code < 500 or answer.status_code == 503, (request, answer.text)
            if answer.status_code >= 400 and answer.headers["content-type"] == "application/json":
                assert len(answer.content) < 8000
            if number == count // 4:
                resident = _resident_kib()
    record_figure("statuses", ", ".join(f"{s}: {n}" for s, n in sorted(statuses.items())))
    record_figure("slowest_seconds", round(slowest, 3))
    record_figure("growth_kib", _resident_kib() - resident)
    assert slowest < SLOWEST_SECONDS
    assert _resident_kib() - resident < GROWTH_KIB


def _resident_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
