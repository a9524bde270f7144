"""Callers told apart: by keys, certificates and addresses."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.access import Doorkeeper, Key, KeyRing, Limits, digest_of
from shared.errors import Unauthorized

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LIMITS = Limits(requests_per_minute=7)
ALICE = Key("alice", digest_of("right"), "bearer", frozenset({"generate"}), "home", None, LIMITS)
LATER = Key("later", digest_of("late"), "bearer", frozenset(), "home", NOW + timedelta(1))
CERTIFICATE = bytes(range(32))
EDGE = Key("edge", CERTIFICATE, "certificate", frozenset({"sessions"}), "berlin")
KEEPER = Doorkeeper(lambda: KeyRing([ALICE, LATER, EDGE]), clock=lambda: NOW)
OPEN = replace(KEEPER, strangers=frozenset({"generate"}), limits=Limits(concurrent=2))


@pytest.mark.parametrize("header", ["Bearer right", "bearer  right ", "BEARER right"])
@pytest.mark.parametrize("certificate", [None, CERTIFICATE])
def test_a_key_that_is_known_lets_in_and_goes_before_a_certificate(
    header: str, certificate: bytes | None
) -> None:
    caller = KEEPER.identify(header, certificate, "10.0.0.1")
    assert (caller.owner, caller.known, caller.limits) == ("home", True, LIMITS)
    assert caller.scopes == {"generate"}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "right",
        "Bearer",
        "Bearer ",
        "Basic right",
        "Bearer rightx",
        "Bearer right right",
        "Bearer\tright",
        "Bearer \udcff\xff",
        f"Bearer {digest_of('right').hex()}",
    ],
)
@pytest.mark.parametrize("keeper", [KEEPER, OPEN])
def test_nothing_else_does(header: str, keeper: Doorkeeper) -> None:
    with pytest.raises(Unauthorized) as refused:
        keeper.identify(header, None, None)
    assert not any(len(word) > 2 and word in refused.value.message for word in header.split()[1:])


def test_an_expired_key_is_none() -> None:
    assert KEEPER.identify("Bearer late", None, None).known
    tomorrow = replace(KEEPER, clock=lambda: NOW + timedelta(1))
    with pytest.raises(Unauthorized, match="expired"):
        tomorrow.identify("Bearer late", None, None)
    ended = replace(EDGE, expires=NOW)
    with pytest.raises(Unauthorized, match="expired"):
        replace(OPEN, keys=lambda: KeyRing([ended])).identify(None, CERTIFICATE, None)


def test_a_certificate_is_a_key_and_an_unknown_one_is_none() -> None:
    assert KEEPER.identify(None, CERTIFICATE, None).owner == "berlin"
    with pytest.raises(Unauthorized):
        KEEPER.identify(None, bytes(32), None)
    assert not OPEN.identify(None, bytes(32), None).known


def test_strangers_come_in_where_they_may_and_own_nothing() -> None:
    with pytest.raises(Unauthorized):
        KEEPER.identify(None, None, "10.0.0.1")
    stranger = OPEN.identify(None, None, "10.0.0.1")
    assert (stranger.owner, stranger.known, stranger.may("generate")) == ("", False, True)
    assert (stranger.came_in, stranger.limits.concurrent) == (True, 2)
    assert not KEEPER.stranger("10.0.0.1").came_in


def test_a_client_is_a_key_or_else_an_address() -> None:
    def client(header: str | None, address: str | None) -> str:
        return OPEN.identify(header, None, address).client

    assert client("Bearer right", "a") == client("Bearer right", "b")
    assert client("Bearer right", "a") != client("Bearer late", "a")
    assert client(None, "a") != client(None, "b")
    assert client(None, None) == client(None, None)
    # An address of a key's name is not that key.
    assert client(None, "alice") != client("Bearer right", None)


def test_a_clients_name_tells_nothing_of_it_and_is_this_process_own() -> None:
    one, two = (Doorkeeper(strangers=frozenset({"generate"})) for _ in range(2))
    tags = [each.identify(None, None, "10.0.0.1").client for each in (one, two)]
    assert tags[0] != tags[1]
    assert all(len(tag) == 16 and int(tag, 16) >= 0 for tag in tags)
    assert "secret" not in repr(one)
