"""Every route of both services, asked for with every kind of credential; and the tables of
`docs/access.md`, which say how each was answered.

`python -m tests.support.access` writes them between the markers of the document; a test compares.
"""

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from services.cloud.routes import RULES as CLOUD_RULES
from services.edge.routes import RULES as EDGE_RULES
from shared.access import SCOPES
from shared.web.access import Rules
from tests.support.apps import client_of, cloud_app, edge_app
from tests.support.keys import written_keys

DOCUMENT = Path(__file__).parents[2] / "docs" / "access.md"
MARKED = re.compile(r"(<!-- table: (edge|cloud) routes -->\n).*?(<!-- end -->)", re.DOTALL)
RULES: Mapping[str, Rules] = {"edge": EDGE_RULES, "cloud": CLOUD_RULES}

EXPIRED, WRONG, NO_SCOPE = "tandem_expired", "tandem_of-nobody", "tandem_no-scope"
ONLY = {scope: f"tandem_only-{scope}" for scope in SCOPES}
BUT = {scope: f"tandem_all-but-{scope}" for scope in SCOPES}
HEADS = ("request", "takes", "no key", "malformed", "wrong", "expired", "out of scope", "right")


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request was sent with, in words and in headers, and its answer."""

    kind: str
    secrets: Sequence[str]
    answer: httpx.Response

    @property
    def outcome(self) -> str:
        """What became of it at the door: refused, or let `in`, whatever came of it there."""
        refused = self.answer.status_code in (401, 403, 404, 405)
        return str(self.answer.status_code) if refused else "in"


def keys_of_all_kinds(folder: Path) -> Path:
    """A file with a key for each kind of credential."""
    everything = ", ".join(f'"{scope}"' for scope in SCOPES)
    keys = {EXPIRED: f"scopes = [{everything}]\nexpires = 2020-01-01T00:00:00Z"}
    keys[NO_SCOPE] = "scopes = []"
    keys |= {key: f'scopes = ["{scope}"]' for scope, key in ONLY.items()}
    for scope, key in BUT.items():
        others = ", ".join(f'"{each}"' for each in SCOPES if each != scope)
        keys[key] = f"scopes = [{others}]"
    return written_keys(folder / "keys.toml", keys)


def app_of(side: str, **settings: Any) -> FastAPI:
    """A service as an application."""
    return edge_app("", **settings) if side == "edge" else cloud_app(**settings)


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path an application answers; HEAD comes with GET."""
    return sorted(_routes(app.routes), key=lambda route: (route[1], route[0]))


def _routes(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _routes(included.routes, prefix + route.include_context.prefix)  # type: ignore[attr-defined]
            continue
        assert isinstance(route, Route), f"{route}: no rule can name it"
        for method in (route.methods or set()) - {"HEAD"}:
            yield method, prefix + route.path


def credentials(rule: str | None) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What a request can be sent with, by kind; some kinds in several ways."""

    def bearer(key: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {key}")]

    key = {scope: ONLY[scope] for scope in SCOPES}.get(rule, NO_SCOPE)  # type: ignore[call-overload]
    yield "no key", []
    for malformed in ("", "Bearer", "Bearer ", key, f"Basic {key}", f"Bearer {key} {key}"):
        yield "malformed", [("authorization", malformed)]
    yield "malformed", bearer(key) + bearer(key)
    yield "wrong", bearer(WRONG)
    yield "wrong", bearer(key + "x")
    yield "wrong", bearer(key[:-1])
    yield "expired", bearer(EXPIRED)
    if rule in BUT:
        yield "out of scope", bearer(BUT[rule])
    yield "right", bearer(key)


async def asked(
    client: httpx.AsyncClient, method: str, path: str, rule: str | None, **headers: str
) -> AsyncIterator[Asked]:
    """Ask for a route with every kind of credential."""
    for kind, sent in credentials(rule):
        answer = await client.request(method, path, headers=[*headers.items(), *sent])
        secrets = [word for _, value in sent for word in value.split() if "tandem_" in word]
        yield Asked(kind, secrets, answer)


@cache
def closed_app(side: str) -> FastAPI:
    """A service that lets nobody in without a key; the same each time."""
    with tempfile.TemporaryDirectory() as folder:
        # A file that is gone leaves its keys.
        return app_of(side, keys_file=keys_of_all_kinds(Path(folder)), without_key="")


@asynccontextmanager
async def closed(side: str) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """Such a service and a client of it."""
    app = closed_app(side)
    async with client_of(app) as client:
        yield app, client


async def table(side: str) -> str:
    """How a service answers, a row per route, as Markdown."""
    rules = RULES[side]
    rows: list[Sequence[str]] = [HEADS, ["---"] * len(HEADS)]
    async with closed(side) as (app, client):
        routes: list[tuple[str, str, str | None]] = [
            (*route, rules.get(route)) for route in routes_of(app)
        ]
        for method, path, rule in [*routes, ("GET", "/any/other", None), ("DELETE", "/", None)]:
            found: dict[str, set[str]] = {}
            async for each in asked(client, method, path, rule):
                found.setdefault(each.kind, set()).add(each.outcome)
            cells = [", ".join(sorted(found.get(kind, {"-"}))) for kind in HEADS[2:]]
            rows.append([f"`{method} {path}`", _words(rule), *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _words(rule: str | None) -> str:
    match rule:
        case None:
            return "no rule"
        case "public":
            return "nothing"
        case "caller":
            return "any key"
    return f"`{rule}`"


async def written(document: str) -> str:
    """The document with both tables made anew."""
    tables = {side: await table(side) for side in RULES}
    return MARKED.sub(lambda found: f"{found[1]}{tables[found[2]]}{found[3]}", document)


if __name__ == "__main__":
    DOCUMENT.write_text(asyncio.run(written(DOCUMENT.read_text())))
