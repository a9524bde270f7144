"""Every error is answered with one shape, and only bugs are logged as such."""

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from shared import errors as tree
from shared.errors import (
    BadModel,
    CloudLost,
    CodecRange,
    ComputeError,
    DeadlinePassed,
    Draining,
    Fenced,
    Forbidden,
    Invalid,
    Limited,
    Malformed,
    Mismatch,
    NotFound,
    OutOfMemory,
    Overloaded,
    TandemError,
    TooLarge,
    Unauthorized,
    Unfit,
)
from shared.protocol.messages import Fault
from shared.protocol.version import MEDIA_TYPE
from shared.protocol.wire import decode
from shared.web import errors


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: Annotated[str, Field(min_length=1)]
    inner: Inner = Inner()


def application(raised: Exception | None = None) -> FastAPI:
    app = FastAPI()
    errors.install(app)

    @app.post("/")
    async def answer(body: Body) -> Body:
        if raised is not None:
            raise raised
        return body

    return app


async def post(content: bytes, raised: Exception | None = None, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(application(raised), raise_app_exceptions=False)
    headers = {"content-type": "application/json"} | headers
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return await http.post("/", content=content, headers=headers)


GOOD = b'{"text": "a"}'


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.tandem+json"])
async def test_every_kind_of_json_is_looked_into(kind: str) -> None:
    assert (await post(GOOD, None, **{"content-type": kind})).status_code == 200
    assert (await post(b"[]", None, **{"content-type": kind})).status_code == 422


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_announced_as_something_else_is_told_what_to_send(kind: str) -> None:
    answer = await post(GOOD, None, **{"content-type": kind})
    assert answer.status_code == 415
    assert answer.json() == {
        "error": f"the body is announced as {kind or 'nothing'}: "
        "send `Content-Type: application/json`",
        "error_type": "media_type",
        "field": "body",
    }


RAISED = [
    (Invalid("no", field="mode"), 422, "invalid"),
    (Malformed("no", code="checksum"), 400, "checksum"),
    (TooLarge("no"), 413, "too_large"),
    (Unauthorized("no"), 401, "unauthorized"),
    (Limited("no", retry_after=2.0), 429, "limited"),
    (Forbidden("no", field="parameters.priority"), 403, "forbidden"),
    (NotFound("no"), 404, "not_found"),
    (Mismatch({"depth": (1, 2)}), 409, "mismatch"),
    (Overloaded("no", retry_after=0.2), 503, "overloaded"),
    (OutOfMemory("no"), 503, "out_of_memory"),
    (Draining("no"), 503, "draining"),
    (Fenced(3), 409, "fenced"),
    (DeadlinePassed("no"), 504, "deadline"),
    (Unfit("no"), 503, "mismatch"),
    (CloudLost("no", reason="refused", retry_after=2.5), 503, "cloud_lost"),
    (ComputeError("no"), 500, "compute"),
    (CodecRange("no", field="parameters.codec"), 422, "codec_range"),
    (BadModel("no"), 500, "bad_model"),
    (TandemError("no"), 500, "internal"),
]


def test_the_table_below_has_every_error_of_the_tree() -> None:
    kinds = {v for v in vars(tree).values() if isinstance(v, type) and issubclass(v, TandemError)}
    assert {type(error) for error, _, _ in RAISED} == kinds


@pytest.mark.parametrize(("error", "status", "code"), RAISED, ids=lambda v: type(v).__name__)
async def test_an_error_of_ours_is_its_status_and_code(
    error: TandemError, status: int, code: str
) -> None:
    answer = await post(GOOD, error)
    assert answer.status_code == status
    expected = {"error": error.message, "error_type": code}
    if error.field is not None:
        expected["field"] = error.field
    assert answer.json() == expected


@pytest.mark.parametrize(("error", "status", "code"), RAISED, ids=lambda v: type(v).__name__)
async def test_a_peer_of_the_protocol_gets_the_same_as_a_fault(
    error: TandemError, status: int, code: str
) -> None:
    answer = await post(GOOD, error, accept=MEDIA_TYPE)
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)
    assert decode(answer.content, limit=1 << 14) == Fault(
        code=code,
        message=error.message,
        retryable=error.retryable,
        field=error.field,
        revision=3 if code == "fenced" else None,
    )


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (Overloaded("no", retry_after=0.2), "1"),
        (CloudLost("no", reason="x", retry_after=2.5), "3"),
        (Malformed("no"), None),
    ],
)
async def test_retry_after_is_whole_seconds_rounded_up(
    error: TandemError, header: str | None
) -> None:
    assert (await post(GOOD, error)).headers.get("retry-after") == header


async def test_what_is_told_of_a_long_fault_is_short() -> None:
    error = Malformed("x" * 10_000, field="y" * 10_000)
    answer = await post(GOOD, error, accept=MEDIA_TYPE)
    told = Fault(code="malformed", message="x" * 999 + "…", field="y" * 199 + "…")
    assert decode(answer.content, limit=1 << 14) == told
    assert len((await post(GOOD, error)).text) < 1400


async def test_what_is_told_of_a_long_name_is_short() -> None:
    name = "y" * 100_000
    answer = await post(b'{"text": "a", "' + name.encode() + b'": 1}')
    assert answer.status_code == 422
    assert answer.json()["field"] == "y" * 199 + "…"
    assert len(answer.text) < 1400


async def test_what_is_told_of_a_long_media_type_is_short() -> None:
    answer = await post(GOOD, None, **{"content-type": "x/" + "y" * 100_000})
    assert answer.status_code == 415
    assert len(answer.text) < 400


@pytest.mark.parametrize("accept", ["application/json", MEDIA_TYPE])
async def test_an_unforeseen_error_is_500_says_nothing_of_itself_and_is_logged(
    accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = RuntimeError("the prompt was: secret")
    with caplog.at_level(logging.ERROR, logger="shared.web.errors"):
        answer = await post(GOOD, secret, accept=accept)
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error", "error_type": "internal"}
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [secret]


@pytest.mark.parametrize(
    ("error", "logged"),
    [(ComputeError("no"), 1), (Invalid("no"), 0), (Overloaded("no"), 0), (Malformed("no"), 0)],
)
async def test_only_errors_a_retry_does_not_help_are_logged(
    error: TandemError, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="shared.web.errors"):
        await post(GOOD, error)
    assert len(caplog.records) == logged


@pytest.mark.parametrize(
    ("content", "status"), [(b'{"text": "\xff"}', 400), (b"\xff\xfe", 400), (b"{", 400), (b"", 422)]
)
async def test_a_body_that_is_no_json_is_refused_naming_the_body(
    content: bytes, status: int
) -> None:
    answer = await post(content)
    body = answer.json()
    assert (answer.status_code, body["field"]) == (status, "body")
    assert "body" in body["error"]
    if status == 400:
        assert body["error"] == "the body is no valid UTF-8 JSON"
        assert body["error_type"] == "malformed"


@pytest.mark.parametrize(
    ("content", "field", "says"),
    [
        (b'{"text": 5}', "text", "text of at least 1 character"),
        (b'{"text": ""}', "text", "text of at least 1 character"),
        (b"{}", "text", "required"),
        (b'{"text": "a", "inner": {"top_p": 2}}', "inner.top_p", "numbers above 0 to 1"),
        (b'{"text": "a", "inner": {"top_p": "x"}}', "inner.top_p", "numbers above 0 to 1"),
        (b'{"text": "a", "more": 1}', "more", "unknown field; allowed: inner, text"),
        (b'{"text": "a", "inner": {"x": 1}}', "inner.x", "unknown field; allowed: top_p"),
        (b"[]", "body", "body"),
    ],
)
async def test_a_wrong_field_is_422_named_with_what_is_allowed(
    content: bytes, field: str, says: str
) -> None:
    answer = await post(content)
    body = answer.json()
    assert (answer.status_code, body["error_type"], body["field"]) == (422, "validation", field)
    assert says in body["error"]


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        (lambda http: http.get("/nowhere"), 404),
        (lambda http: http.delete("/"), 405),
    ],
)
async def test_an_error_of_the_framework_has_the_same_shape(
    request_of: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]], status: int
) -> None:
    transport = httpx.ASGITransport(application())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await request_of(http)
    assert answer.status_code == status
    assert answer.json()["error_type"] == "http"
