"""Who may overtake, and under which name a caller's share is counted."""

from hashlib import sha256

import pytest
from pydantic import ValidationError

from services.edge.callers import Callers
from services.edge.settings import Settings

KEY, OTHER = "the ward's own key", "another key"
DIGESTS = frozenset(sha256(key.encode()).digest() for key in (KEY, OTHER))
CALLERS = Callers(DIGESTS)


@pytest.mark.parametrize("header", [f"Bearer {KEY}", f"bearer  {KEY} ", f"BEARER {OTHER}"])
def test_a_key_that_is_known_may_overtake(header: str) -> None:
    assert CALLERS.identify(header, "10.0.0.1").may_overtake


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        KEY,
        "Bearer",
        "Bearer ",
        f"Basic {KEY}",
        f"Bearer {KEY}x",
        f"Bearer {sha256(KEY.encode()).hexdigest()}",
        "Bearer \udcff\xff",
    ],
)
def test_nothing_else_may(header: str | None) -> None:
    assert not CALLERS.identify(header, "10.0.0.1").may_overtake
    assert not Callers().identify(header, None).may_overtake


def test_a_client_is_a_known_key_or_else_an_address() -> None:
    def client(header: str | None, address: str | None) -> str:
        return CALLERS.identify(header, address).client

    assert client(f"Bearer {KEY}", "a") == client(f"Bearer {KEY}", "b")
    assert client(f"Bearer {KEY}", "a") != client(f"Bearer {OTHER}", "a")
    # Keys nobody knows are no way to be many.
    assert client("Bearer x", "a") == client("Bearer y", "a") == client(None, "a")
    assert client(None, "a") != client(None, "b")
    assert client(None, None) == client(None, None)


def test_a_clients_name_tells_nothing_of_it_and_is_this_edges_own() -> None:
    one, two = CALLERS.identify(None, "10.0.0.1"), Callers(DIGESTS).identify(None, "10.0.0.1")
    assert one.client != two.client
    assert len(one.client) == 16
    assert "10" not in repr(CALLERS)
    assert not any(digest.hex() in repr(CALLERS) for digest in DIGESTS)


def test_keys_are_set_as_digests_and_what_is_none_is_not_repeated() -> None:
    listed = ", ".join(digest.hex() for digest in DIGESTS)
    settings = Settings(bundle="somewhere", emergency_keys=listed)
    assert settings.emergency_digests == DIGESTS
    assert Settings(bundle="somewhere").emergency_digests == frozenset()
    with pytest.raises(ValidationError) as refused:
        Settings(bundle="somewhere", emergency_keys=KEY)
    [error] = refused.value.errors(include_url=False, include_input=False)
    assert KEY not in str(error)
    assert KEY not in repr(settings)
