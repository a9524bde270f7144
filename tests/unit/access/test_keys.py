"""Keys as a file tells of them."""

import hmac
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from shared.access import Key, KeyRing, Limits, digest_of, new_key, read_keys
from shared.access import keys as keys_module
from shared.errors import Invalid

DIGEST, OTHER = sha256(b"right").hexdigest(), sha256(b"other").hexdigest()


def test_a_key_is_what_its_table_says() -> None:
    ring = read_keys(
        f'[keys.alice]\nsha256 = "{DIGEST.upper()}"\nscopes = ["generate", "priority"]\n'
        "expires = 2027-01-01T00:00:00+01:00\nrequests_per_minute = 60\n"
        "tokens_per_minute = 20_000\nconcurrent = 4\n[keys.edge-1]\n"
        f'certificate_sha256 = "{OTHER}"\nowner = "berlin"\nscopes = ["sessions"]\n'
    )
    assert len(ring) == 2
    alice = ring.find("bearer", digest_of("right"))
    assert alice is not None
    assert (alice.name, alice.owner) == ("alice", "alice")
    assert alice.scopes == {"generate", "priority"}
    assert alice.limits == Limits(60, 20_000, 4)
    end = datetime(2026, 12, 31, 23, tzinfo=UTC)
    assert alice.expired(end)
    assert not alice.expired(datetime(2026, 12, 31, 22, 59, 59, tzinfo=UTC))
    edge = ring.find("certificate", bytes.fromhex(OTHER))
    assert edge is not None
    assert (edge.owner, edge.expires, edge.limits) == ("berlin", None, Limits())
    # A certificate's digest sent as a key, or the other way round, is nobody's.
    assert ring.find("bearer", bytes.fromhex(OTHER)) is None
    assert ring.find("certificate", digest_of("right")) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[keys.a", "no TOML"),
        ("", "keys"),
        ("[keys]\n[other]", "other"),
        (f'[keys.a]\nsha256 = "{DIGEST}"', "keys.a.scopes"),
        (f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = ["everything"]', "keys.a.scopes"),
        (f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = []\nadmin = true', "keys.a.admin"),
        (f'[keys.a]\nsha256 = "{DIGEST[:-1]}"\nscopes = []', "keys.a.sha256"),
        (f'[keys.a]\nsha256 = "{DIGEST}"\ncertificate_sha256 = "{DIGEST}"\nscopes = []', "keys.a"),
        ("[keys.a]\nscopes = []", "keys.a"),
        (f'[keys."a:b"]\nsha256 = "{DIGEST}"\nscopes = []', "keys.a:b"),
        (f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = []\nowner = "a:b"', "keys.a.owner"),
        (f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = []\nowner = ""', "keys.a.owner"),
        (f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = []\nconcurrent = 0', "keys.a.concurrent"),
        (f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = []\nexpires = 2027-01-01', "keys.a.expires"),
        (
            f'[keys.a]\nsha256 = "{DIGEST}"\nscopes = []\nexpires = 2027-01-01T00:00:00',
            "keys.a.expires",
        ),
        (
            f'keys.a = {{sha256 = "{DIGEST}", scopes = []}}\n'
            f'keys.b = {{sha256 = "{DIGEST}", scopes = []}}',
            "keys.b: the same key as keys.a",
        ),
    ],
)
def test_what_is_wrong_is_named_and_no_digest_is(text: str, named: str) -> None:
    with pytest.raises(Invalid) as wrong:
        read_keys(text)
    assert named in wrong.value.message
    assert DIGEST[:16] not in str(wrong.value)


def test_keys_that_share_a_bucket_are_told_apart_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near = [bytes(8) + bytes([n]) * 24 for n in range(3)]
    ring = KeyRing([Key(str(n), each, "bearer", frozenset(), "") for n, each in enumerate(near)])
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Watched:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(keys_module, "hmac", Watched)
    for n, each in enumerate(near):
        found = ring.find("bearer", each)
        assert found is not None
        assert found.name == str(n)
    assert ring.find("bearer", bytes(32 - 1) + b"\x09") is None
    # Each look compares with every key of the bucket, whether one was found or not.
    assert len(compared) == 4 * len(near)


def test_no_digest_is_shown() -> None:
    assert "digest" not in repr(Key("a", digest_of("right"), "bearer", frozenset(), "a"))


def test_new_keys_are_different_and_can_be_found_by_scanners() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("tandem_") and len(key) == 50 for key in keys)


def test_beyond_ascii_the_bytes_sent_are_what_counts() -> None:
    assert digest_of("schlüssel") == sha256("schlüssel".encode("latin-1")).digest()
    assert digest_of("\udcff") == sha256(b"?").digest()
