"""Bounded bodies and request ids, over ASGI as a server would speak it."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Scope

from shared.logs import request_id
from shared.protocol.version import HEADER_REQUEST_ID
from shared.web import errors
from shared.web.middleware import BodyLimit, RequestId

LIMIT = 1000


def application() -> FastAPI:
    app = FastAPI()
    errors.install(app)
    app.add_middleware(BodyLimit, limit=LIMIT)
    app.add_middleware(RequestId)

    @app.post("/raw")
    async def raw(request: Request) -> dict[str, object]:
        return {"length": len(await request.body()), "id": request_id.get()}

    @app.post("/json")
    async def parsed(body: dict[str, object]) -> dict[str, object]:
        return body

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield bytes(LIMIT)

        return StreamingResponse(pieces())

    return app


async def pieces(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b" " * size


async def post(path: str, content: bytes | AsyncIterator[bytes], **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return await http.post(path, content=content, headers=headers)


@pytest.mark.parametrize("path", ["/raw", "/json"])
async def test_a_body_announced_over_the_limit_is_refused(path: str) -> None:
    answer = await post(path, b" " * (LIMIT + 1))
    assert answer.status_code == 413
    assert answer.json() == {
        "error": "the body is over the limit of 1000 bytes",
        "error_type": "too_large",
    }


@pytest.mark.parametrize("path", ["/raw", "/json"])
async def test_a_body_of_no_announced_length_is_refused_where_it_passes_the_limit(
    path: str,
) -> None:
    answer = await post(path, pieces(400, 400, 400, 400))
    assert answer.status_code == 413
    assert answer.json()["error_type"] == "too_large"
    assert "1000 bytes" in answer.json()["error"]


async def test_a_body_of_the_limit_exactly_is_taken_either_way() -> None:
    assert (await post("/raw", b" " * LIMIT)).json()["length"] == LIMIT
    assert (await post("/raw", pieces(400, 600))).json()["length"] == LIMIT


async def converse(messages: list[Message], headers: list[tuple[bytes, bytes]]) -> list[Message]:
    """What the application sends for a request that arrives as `messages`."""
    sent: list[Message] = []
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/raw",
        "raw_path": b"/raw",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": headers,
        "server": ("test", 80),
        "client": ("test", 1),
    }

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(60)
        raise AssertionError("the application read on")

    async def send(message: Message) -> None:
        sent.append(message)

    await application()(scope, receive, send)
    return sent


async def test_a_length_that_lies_does_not_get_past_the_limit() -> None:
    body: list[Message] = [
        {"type": "http.request", "body": bytes(LIMIT), "more_body": True},
        {"type": "http.request", "body": b"x", "more_body": True},
    ]
    sent = await converse(body, [(b"content-length", b"10")])
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 413


async def test_no_more_is_read_once_a_body_is_over_the_limit() -> None:
    body: list[Message] = [
        {"type": "http.request", "body": bytes(LIMIT), "more_body": True} for _ in range(50)
    ]
    sent = await converse(body, [])
    assert sent[0]["status"] == 413
    assert len(body) >= 47


async def test_the_refusal_of_a_body_is_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await post("/raw", pieces(800, 800))
    assert [record.message for record in caplog.records if record.levelno >= 40] == []


async def test_answers_may_be_longer_than_requests() -> None:
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert len((await http.get("/stream")).content) == 3 * LIMIT


@pytest.mark.parametrize("given", ["abc-1", "a" * 64, "with space"])
async def test_a_request_id_is_known_to_the_logs_and_echoed(given: str) -> None:
    answer = await post("/raw", b"", **{HEADER_REQUEST_ID: given})
    assert answer.headers[HEADER_REQUEST_ID] == answer.json()["id"] == given
    assert request_id.get() is None


@pytest.mark.parametrize("given", [b"", b"a" * 65, b"tab\there", b"\xff", b"esc\x1b[0m"])
async def test_an_unusable_request_id_is_replaced(given: bytes) -> None:
    body: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
    sent = await converse(body, [(HEADER_REQUEST_ID.encode(), given)])
    made = dict(sent[0]["headers"])[HEADER_REQUEST_ID.encode()]
    assert made != given
    assert len(bytes.fromhex(made.decode())) == 8


async def test_requests_without_an_id_get_different_ones() -> None:
    made = {(await post("/raw", b"")).headers[HEADER_REQUEST_ID] for _ in range(5)}
    assert len(made) == 5


async def test_a_refusal_carries_the_request_id_too() -> None:
    answer = await post("/raw", b" " * 2000, **{HEADER_REQUEST_ID: "abc"})
    assert (answer.status_code, answer.headers[HEADER_REQUEST_ID]) == (413, "abc")
