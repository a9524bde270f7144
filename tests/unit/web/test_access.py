"""The door as middleware: what passes it, what is told of whoever asks, and what never does."""

from typing import Any

import pytest
from starlette.requests import Request

from shared.access import Caller, Doorkeeper, Key, KeyRing, digest_of
from shared.web.access import CERTIFICATE, Access, Rules, caller_of

RULES: Rules = {("GET", "/open"): "public", ("GET", "/any"): "caller", ("POST", "/do"): "generate"}
CERTIFIED = bytes(range(32))
KEYS = KeyRing(
    [
        Key("alice", digest_of("right"), "bearer", frozenset({"generate"}), "berlin"),
        Key("bob", digest_of("other"), "bearer", frozenset({"metrics"}), "bob"),
        Key("edge", CERTIFIED, "certificate", frozenset({"generate"}), "edge"),
    ]
)


class Asked:
    """A door with an application behind it, asked once."""

    def __init__(self, *strangers: Any, here: bool = False) -> None:
        self.came: list[Caller] = []
        self.sent: list[dict[str, Any]] = []
        keeper = Doorkeeper(lambda: KEYS, frozenset(strangers), here)
        self.door = Access(self._app, keeper, RULES)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.came.append(caller_of(Request(scope)) if scope["type"] == "http" else Caller())

    async def ask(self, method: str, path: str, *sent: str, **scope: Any) -> int | None:
        """The status it is refused with, if it is."""
        headers = [(b"authorization", each.encode("latin-1")) for each in sent]
        given = {"type": "http", "method": method, "path": path, "headers": headers}
        given |= {"client": ("10.0.0.1", 1), "query_string": b""} | scope

        async def receive() -> Any:
            raise AssertionError("nothing is read at the door")

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self.door(given, receive, send)
        return self.sent[0].get("status") if self.sent else None


async def test_who_may_comes_in_and_is_known_within() -> None:
    asked = Asked()
    assert await asked.ask("POST", "/do", "Bearer right") is None
    [caller] = asked.came
    assert (caller.owner, caller.known, caller.may("generate")) == ("berlin", True, True)


@pytest.mark.parametrize("sent", [(), ("Bearer wrong",), ("Bearer right", "Bearer right")])
async def test_on_a_public_route_a_wrong_key_is_none(sent: tuple[str, ...]) -> None:
    asked = Asked()
    assert await asked.ask("GET", "/open", *sent) is None
    [caller] = asked.came
    assert (caller.owner, caller.known, caller.came_in) == ("", False, False)
    there = Asked("generate")
    await there.ask("GET", "/open", *sent)
    assert there.came[0].came_in
    assert not there.came[0].known


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("POST", "/do", (), 401),
        ("POST", "/do", ("Bearer wrong",), 401),
        ("POST", "/do", ("Bearer right", "Bearer wrong"), 401),
        ("POST", "/do", ("Bearer other",), 403),
        ("GET", "/any", (), 401),
        ("GET", "/any", ("Bearer other",), None),
        ("HEAD", "/any", ("Bearer other",), None),
        ("HEAD", "/any", (), 401),
        ("HEAD", "/open", (), None),
        ("OPTIONS", "/open", (), 401),
        ("OPTIONS", "/open", ("Bearer right",), 405),
        ("GET", "/do", ("Bearer right",), 405),
        ("get", "/open", ("Bearer right",), 405),
        ("GET", "/open/", ("Bearer right",), 404),
        ("GET", "//open", ("Bearer right",), 404),
        ("GET", "/OPEN", (), 401),
        ("GET", "/nowhere", ("Bearer right",), 404),
    ],
)
async def test_the_rule_is_that_of_the_very_method_and_path(
    method: str, path: str, sent: tuple[str, ...], status: int | None
) -> None:
    asked = Asked()
    assert await asked.ask(method, path, *sent) == status
    assert len(asked.came) == (status is None)


async def test_strangers_may_do_what_they_may_and_need_a_key_for_more() -> None:
    asked = Asked("metrics")
    assert await asked.ask("GET", "/any") is None
    assert await asked.ask("POST", "/do") == 401
    assert len(asked.came) == 1


async def test_what_methods_there_are_is_said() -> None:
    asked = Asked()
    await asked.ask("DELETE", "/do", "Bearer right")
    assert (b"allow", b"POST") in asked.sent[0]["headers"]


async def test_a_certificate_is_as_good_as_a_key_and_a_wrong_key_beside_it_is_wrong() -> None:
    shown: dict[str, Any] = {"extensions": {CERTIFICATE: CERTIFIED}}
    asked = Asked()
    assert await asked.ask("POST", "/do", **shown) is None
    assert asked.came[0].owner == "edge"
    assert await asked.ask("POST", "/do", "Bearer wrong", **shown) == 401
    assert await Asked().ask("POST", "/do", extensions={CERTIFICATE: bytes(32)}) == 401


async def test_what_is_no_request_stays_out() -> None:
    asked = Asked("generate")
    await asked.ask("GET", "/open", type="websocket")
    assert asked.sent == [{"type": "websocket.close", "code": 1008}]
    assert asked.came == []
    await asked.ask("GET", "/open", type="lifespan")
    assert len(asked.came) == 1


def test_where_no_door_was_passed_nobody_may_do_anything() -> None:
    for state in ({}, {"caller": "alice"}):
        scope: dict[str, Any] = {"type": "http", "headers": [], "state": state}
        assert not caller_of(Request(scope)).came_in


@pytest.mark.parametrize(
    ("path", "sent", "host", "status"),
    [
        ("/do", (), b"rebound.example:8000", 403),
        ("/any", (), b"rebound.example", 403),
        ("/open", (), b"rebound.example", None),
        ("/do", ("Bearer right",), b"rebound.example", None),
        ("/do", (), b"localhost:8000", None),
    ],
)
async def test_a_page_whose_name_was_made_to_point_here_is_not_let_in_as_this_machine(
    path: str, sent: tuple[str, ...], host: bytes, status: int | None
) -> None:
    method = "POST" if path == "/do" else "GET"
    headers = [(b"host", host)] + [(b"authorization", each.encode()) for each in sent]
    assert await Asked("generate", here=True).ask(method, path, headers=headers) == status
    opened = Asked("generate")
    assert await opened.ask(method, path, headers=headers) is None
