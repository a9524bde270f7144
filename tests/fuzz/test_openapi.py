"""Both services' OpenAPI documents tell the truth: requests made from them, and requests that
contradict them, are answered with what they say.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import cycle
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from shared.protocol.messages import Fault
from shared.protocol.version import MEDIA_TYPE
from shared.protocol.wire import decode, encode
from shared.runtime.lifecycle import Lifecycle
from shared.web import refusals
from tests.fuzz.targets import sealed
from tests.support.access import RULES, app_of, closed_app, credentials
from tests.support.apps import client_of, running
from tests.support.reference import bundles, loaded
from tests.support.results import Figure
from tests.support.size import Size
from tests.unit.cloud.sessions import CLOUD_OPENING, ask, block
from tests.unit.protocol.strategies import BLOCK, CLOSE

CHECKS: list[CheckFunction] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
OPERATIONS = {
    "edge": ["GET /healthz", "GET /readyz", "GET /metrics", "POST /generate"],
    "cloud": [
        *("GET /healthz", "GET /readyz", "GET /metrics", "GET /v1/manifest"),
        *("POST /v1/blocks", "POST /v1/blocks/stream", "POST /v1/close"),
    ],
}
EVERY = [(service, operation) for service, each in OPERATIONS.items() for operation in each]
FORGED = (sealed(b"\x80", 2), sealed(b"\x80", 3), sealed(b"\xc1"), sealed(b"\x80", 9))
# Of the others nothing can be contradicted: they read nothing, or any bytes as a body.
CONTRADICTED = ("POST /generate", "POST /v1/blocks", "POST /v1/blocks/stream")
MOST_TOKENS = 4
FAULTS = frozenset({500, 501, 502})  # documented, and never to be seen


def _frames() -> list[bytes]:
    manifest = loaded(bundles().cloud).manifest
    assert manifest is not None
    opening = replace(
        CLOUD_OPENING,
        fingerprint=manifest.fingerprint,
        depth=manifest.depth,
        trunk_format=manifest.compute_format,
    )
    fits = ask(3, opening=opening)
    return [encode(each) for each in (fits, block(5), BLOCK, CLOSE, CLOSE, CLOSE)] + list(FORGED)


_BODIES = st.deferred(lambda: st.sampled_from(_frames()) | st.binary(max_size=200))
schemathesis.openapi.media_type(MEDIA_TYPE, _BODIES)


@dataclass(frozen=True, slots=True)
class Asked:
    """A service in a thread of its own, and what it says of itself."""

    app: FastAPI
    portal: BlockingPortal
    client: httpx.AsyncClient

    def operation(self, named: str) -> Any:
        """What its document says of a method and a path."""
        described = schemathesis.openapi.from_dict(self.app.openapi())
        described.config.generation.update(with_security_parameters=False)
        method, path = named.split()
        return described[path][method]

    def answer(self, case: Case[Any], **headers: str) -> httpx.Response:
        """The answer to a request made from the document; it is held against it."""
        made = case.as_transport_kwargs(base_url="http://app")
        _shorten(made.get("json"))
        sent = {"method", "url", "headers", "params", "json", "data", "cookies"} & made.keys()
        ready = requests.Request(**{name: made[name] for name in sent}).prepare()
        body = ready.body.encode() if isinstance(ready.body, str) else ready.body
        assert body is None or isinstance(body, bytes)
        named = {name.lower(): value for name, value in [*ready.headers.items(), *headers.items()]}
        latin = [(name.encode(), _bytes(value)) for name, value in named.items()]
        request = httpx.Request(ready.method or "", ready.url or "", headers=latin, content=body)
        answer = self.portal.call(self.client.send, request)
        assert answer.status_code not in FAULTS, (request, body, answer.text)
        case.validate_response(answer, checks=CHECKS)
        if answer.is_error and answer.headers["content-type"] == MEDIA_TYPE:
            assert isinstance(decode(answer.content, limit=1 << 14), Fault)
        return answer


def _bytes(value: str | bytes) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else value


def _shorten(body: object) -> None:
    """Have few tokens asked for, where nothing is wrong with how many were."""
    if not isinstance(body, dict):
        return
    wanted = body.setdefault("parameters", {})
    if isinstance(wanted, dict):
        for name, least in (("max_new_tokens", 1), ("min_new_tokens", 0)):
            count = wanted.get(name, MOST_TOKENS)
            if type(count) is int and least <= count <= 131_072:
                wanted[name] = min(count, MOST_TOKENS)


class Services:
    """Services that run until the end of a test."""

    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self._stack = AsyncExitStack()

    def start(self, app: FastAPI) -> Asked:
        """Run one."""
        return Asked(app, self._portal, self._portal.call(self._enter, app))

    async def _enter(self, app: FastAPI) -> httpx.AsyncClient:
        await self._stack.enter_async_context(running(app))
        return await self._stack.enter_async_context(client_of(app))

    def beside(self, app: FastAPI) -> Asked:
        """One that is asked for no more than its door answers."""
        return Asked(app, self._portal, client_of(app))

    def stop(self) -> None:
        """End all of them."""
        self._portal.call(self._stack.aclose)


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with start_blocking_portal() as portal:
        services = Services(portal)
        yield services
        services.stop()


@pytest.fixture(scope="module")
def open_to_all(services: Services) -> dict[str, Asked]:
    return {side: services.start(app_of(side)) for side in OPERATIONS}


def holding(
    examples: int, strategy: st.SearchStrategy[Case[Any]], holds: Callable[[Case[Any]], object]
) -> None:
    """Try a property on as many cases, the same each time; what fails is shown as it was found."""
    checked = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @checked
    @given(case=strategy)
    def tried(case: Case[Any]) -> None:
        holds(case)

    tried()


def one(asked: Asked, operation: str) -> Case[Any]:
    """A case that contradicts nothing."""
    operation_ = asked.operation(operation)
    if operation.startswith("GET"):
        return operation_.Case()  # type: ignore[no-any-return]
    if operation == "POST /generate":
        body: Any = {"inputs": "Once"}
        return operation_.Case(body=body, media_type="application/json")  # type: ignore[no-any-return]
    body = encode(CLOSE) if operation == "POST /v1/close" else _frames()[0]
    return operation_.Case(body=body, media_type=MEDIA_TYPE)  # type: ignore[no-any-return]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("service", "operation", "mode"),
    [(*each, GenerationMode.POSITIVE) for each in EVERY]
    + [(*each, GenerationMode.NEGATIVE) for each in EVERY if each[1] in CONTRADICTED],
)
def test_a_route_answers_as_its_document_says(
    open_to_all: dict[str, Asked],
    service: str,
    operation: str,
    mode: GenerationMode,
    size: Size,
    record_figure: Callable[[str, Figure], None],
) -> None:
    asked, seen = open_to_all[service], Counter[int]()
    frames = cycle([False, False, True])
    count = size.pick(short=100, long=2000) if operation.startswith("POST") else 3

    def holds(case: Case[Any]) -> None:
        accept = {"accept": MEDIA_TYPE} if next(frames) else {}
        seen[asked.answer(case, **accept).status_code] += 1

    holding(count, asked.operation(operation).as_strategy(generation_mode=mode), holds)
    record_figure("statuses", ", ".join(f"{s}: {n}" for s, n in sorted(seen.items())))
    if mode is GenerationMode.POSITIVE:
        assert any(status < 300 for status in seen), "none of them was served"


@pytest.mark.parametrize("service", OPERATIONS)
def test_every_route_is_in_the_document(open_to_all: dict[str, Asked], service: str) -> None:
    document = open_to_all[service].app.openapi()
    found = {f"{m.upper()} {path}" for path, each in document["paths"].items() for m in each}
    assert found == set(OPERATIONS[service])


@pytest.mark.parametrize(("service", "operation"), EVERY)
def test_what_takes_a_key_says_so_and_answers_so(
    services: Services, service: str, operation: str
) -> None:
    asked = services.beside(closed_app(service))
    method, path = operation.split()
    document = asked.app.openapi()
    scheme = document["components"]["securitySchemes"]["key"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    rule = RULES[service][method, path]
    takes = document["paths"][path][method.lower()]["security"]
    assert takes == ([] if rule == "public" else [{"key": [rule]}])
    for kind, sent in credentials(rule):
        if kind != "right" and len(sent) < 2:
            for accept in ("application/json", MEDIA_TYPE):
                answer = asked.answer(one(asked, operation), accept=accept, **dict(sent))
                assert (answer.status_code in (401, 403)) == bool(takes), kind


@pytest.mark.parametrize(("service", "operation"), EVERY)
def test_who_asks_too_often_is_told_so_as_the_document_says(
    services: Services, service: str, operation: str
) -> None:
    asked = services.start(app_of(service, requests_per_minute=1))
    seen = [asked.answer(one(asked, operation)).status_code for _ in range(2)]
    counted = operation in ("POST /generate", "POST /v1/blocks", "POST /v1/blocks/stream")
    assert (seen[1] == 429) == counted, seen


@pytest.mark.parametrize(("service", "operation"), EVERY)
def test_a_service_that_leaves_says_so_as_its_document_says(
    open_to_all: dict[str, Asked],
    service: str,
    operation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Lifecycle, "draining", property(lambda _: True))
    answer = open_to_all[service].answer(one(open_to_all[service], operation))
    # What begins on an edge that leaves is served; sessions are to begin elsewhere.
    told = operation in ("GET /readyz", "POST /v1/blocks", "POST /v1/blocks/stream")
    assert (answer.status_code == 503) == told


@pytest.mark.parametrize(("service", "operation"), EVERY)
def test_what_is_refused_below_the_application_is_in_the_document(
    open_to_all: dict[str, Asked], service: str, operation: str
) -> None:
    case = one(open_to_all[service], operation)
    below = [each for each in vars(refusals).values() if isinstance(each, refusals.Refusal)]
    assert len(below) > 5
    for refusal in below:
        head, _, body = refusal.answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        answer = httpx.Response(
            int(status.split()[1]),
            headers=[(name, value) for name, value in (line.split(": ") for line in lines)],
            content=body,
            request=httpx.Request("GET", "http://app"),
        )
        answer.elapsed = timedelta()
        case.validate_response(answer, checks=CHECKS)
