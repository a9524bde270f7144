"""A JSON body that two readers could take for two different things is refused."""

import json
import tracemalloc
from contextlib import suppress

import pytest
from fastapi import APIRouter, FastAPI
from httpx import ASGITransport, AsyncClient, Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from shared.errors import Malformed
from shared.web import errors
from shared.web.strict_json import MOST_NAMES, StrictRoute, parse

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(value=values)
def test_json_is_what_it_says(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


@given(body=st.binary(max_size=100))
def test_any_bytes_are_json_or_refused(body: bytes) -> None:
    with suppress(Malformed):
        parse(body)


def names(count: int) -> bytes:
    return json.dumps({f"n{n}": n for n in range(count)}).encode()


REFUSED = {
    "nothing": b"",
    "a name twice": b'{"a": 1, "b": 2, "a": 1}',
    "a name twice, written in two ways": b'{"a": 1, "\\u0061": 1}',
    "a name twice inside": b'[{"b": {"a": 1, "a": 2}}]',
    "too many names": names(MOST_NAMES + 1),
    "far too many names": names(90_000),
    "no UTF-8": b'"caf\xe9"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "arrays inside each other": b"[" * 500_000,
    "objects inside each other": b'{"a":' * 200_000,
    "a number of too many digits": b"9" * 100_000,
    "a megabyte of space": b" " * 1_000_000,
    "something after it": b"1 1",
    "a control character": b'"\x00"',
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_is_no_such_json_is_refused_at_a_bounded_cost(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Malformed) as refused:
            parse(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000 + 32 * len(body)
    assert len(refused.value.message) < 200


def test_space_around_it_and_a_character_of_nothing_in_it_are_json() -> None:
    assert parse(b" " * 1_000_000 + b'"\\u0000"' + b"\n") == "\0"
    assert parse(names(MOST_NAMES)) == {f"n{n}": n for n in range(MOST_NAMES)}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    a: int


async def posted(body: bytes) -> Response:
    router = APIRouter(route_class=StrictRoute)

    @router.post("/")
    async def answer(body: Body) -> int:
        return body.a

    app = FastAPI()
    errors.install(app)
    app.include_router(router)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as http:
        return await http.post("/", content=body, headers={"content-type": "application/json"})


async def test_a_route_says_which_name_is_there_twice() -> None:
    assert (await posted(b'{"a": 5}')).json() == 5
    refused = await posted(b'{"a": 5, "a": 6}')
    assert refused.status_code == 400
    assert refused.json()["error_type"] == "malformed"
    assert "'a' is there twice" in refused.json()["error"]
    refused = await posted(names(1000))
    assert (refused.status_code, refused.json()["field"]) == (400, "body")
