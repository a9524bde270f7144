"""Who comes in to both services: every route with every kind of credential, and keys that change
while a service runs.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from shared.access.key_file import LOOK_SECONDS
from shared.errors import Invalid
from shared.protocol.messages import Fault
from shared.protocol.version import MEDIA_TYPE
from shared.protocol.wire import decode
from tests.support.access import (
    DOCUMENT,
    HEADS,
    RULES,
    WRONG,
    app_of,
    asked,
    closed,
    closed_app,
    routes_of,
    written,
)
from tests.support.apps import PATIENCE, client_of
from tests.support.keys import bearer, written_keys

SIDES = pytest.mark.parametrize("side", list(RULES))


@SIDES
async def test_every_route_has_a_rule_and_every_rule_a_route(side: str) -> None:
    assert set(routes_of(closed_app(side))) == set(RULES[side])


async def test_the_document_says_how_each_route_answers_each_credential() -> None:
    document = DOCUMENT.read_text()
    assert await written(document) == document, "run `python -m tests.support.access`"


@SIDES
async def test_nobody_is_let_in_but_with_the_right_key(side: str) -> None:
    async with closed(side) as (app, client):
        for method, path in routes_of(app):
            rule = RULES[side][method, path]
            found: dict[str, set[str]] = {}
            async for each in asked(client, method, path, rule):
                found.setdefault(each.kind, set()).add(each.outcome)
            refused = {"in"} if rule == "public" else {"401"}
            for kind in HEADS[2:6]:
                assert found[kind] == refused, (method, path, kind)
            assert found.get("out of scope", {"403"}) == {"403"}, (method, path)
            assert found["right"] == {"in"}, (method, path)


@SIDES
@pytest.mark.parametrize("accept", ["*/*", MEDIA_TYPE])
async def test_a_refusal_says_what_it_takes_and_repeats_nothing(side: str, accept: str) -> None:
    async with closed(side) as (app, client):
        for method, path in [*routes_of(app), ("GET", "/any/other")]:
            rule = RULES[side].get((method, path))
            async for each in asked(client, method, path, rule, accept=accept):
                answer = each.answer
                for secret in each.secrets:
                    assert secret not in answer.text + str(answer.headers), each.kind
                if answer.status_code not in (401, 403):
                    continue
                challenge = answer.headers.get("www-authenticate")
                assert challenge == ("Bearer" if answer.status_code == 401 else None)
                code = {401: "unauthorized", 403: "forbidden"}[answer.status_code]
                said = _said(answer)
                assert said.code == code
                assert answer.status_code == 401 or f"`{rule}`" in said.message


def _said(answer: httpx.Response) -> Fault:
    """A refusal in either form."""
    if answer.headers["content-type"] == MEDIA_TYPE:
        fault = decode(answer.content, limit=1 << 14)
        assert isinstance(fault, Fault)
        return fault
    return Fault(code=answer.json()["error_type"], message=answer.json()["error"])


@SIDES
async def test_a_route_without_a_rule_is_nobodys(side: str) -> None:
    async with closed(side) as (app, client):
        app.add_api_route("/new", lambda: {"secret": "told"}, methods=["GET", "POST"])
        try:
            assert set(routes_of(app)) - set(RULES[side]) == {("GET", "/new"), ("POST", "/new")}
            async for each in asked(client, "GET", "/new", "metrics"):
                assert each.answer.status_code == (404 if each.kind in HEADS[6:] else 401)
                assert "told" not in each.answer.text
        finally:
            app.router.routes.pop()


@SIDES
async def test_only_those_who_came_in_are_told_what_is_served(side: str) -> None:
    async with closed(side) as (_, client):
        async for each in asked(client, "GET", "/readyz", "public"):
            told = each.answer.json()
            assert told.pop("status") == "ready"
            assert ("fingerprint" in told) == (each.kind == "right")
            assert each.kind == "right" or told == {}
    async with client_of(app_of(side)) as client:
        assert "fingerprint" in (await client.get("/readyz")).json()


@SIDES
async def test_a_strangers_body_is_never_read(side: str) -> None:
    path = {"edge": "/generate", "cloud": "/v1/blocks"}[side]

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        raise AssertionError("it was read")

    async with closed(side) as (_, client):
        for headers in ({}, bearer(WRONG)):
            answer = await client.post(path, content=body(), headers=headers)
            assert answer.status_code == 401


@SIDES
def test_a_service_that_nobody_could_come_in_to_does_not_start(side: str) -> None:
    for closing in ({"without_key": ""}, {"host": "0.0.0.0"}):
        with pytest.raises(Invalid) as refused:
            app_of(side, **closing)
        for setting in ("KEYS_FILE", "WITHOUT_KEY"):
            assert f"TANDEM_{side.upper()}_{setting}" in refused.value.message


@SIDES
async def test_keys_come_and_go_while_it_runs(side: str, tmp_path: Path) -> None:
    file = written_keys(tmp_path / "keys.toml", {"first": 'scopes = ["metrics"]'})
    async with client_of(app_of(side, keys_file=file)) as client:

        async def status(key: str) -> int:
            return (await client.get("/metrics", headers=bearer(key))).status_code

        assert [await status("first"), await status("second")] == [200, 401]
        written_keys(file, dict.fromkeys(("first", "second"), 'scopes = ["metrics"]'))
        await until(lambda: status("second"), 200)
        assert await status("first") == 200
        file.write_text("[keys.first")
        await asyncio.sleep(LOOK_SECONDS + 0.1)
        assert [await status("first"), await status("second")] == [200, 200]
        expired = 'scopes = ["metrics"]\nexpires = 2020-01-01T00:00:00Z'
        written_keys(file, {"second": expired})
        await until(lambda: status("second"), 401)
        assert await status("first") == 401


async def until(ask: Callable[[], Awaitable[int]], wanted: int) -> None:
    """Ask until this is the answer."""
    deadline = time.monotonic() + PATIENCE
    while await ask() != wanted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
