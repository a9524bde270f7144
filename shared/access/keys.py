"""Keys by their digests, with what each allows; read from TOML that people and `tandem keys` write.

    [keys.alice]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["generate", "priority"]
    expires = 2027-01-01T00:00:00Z
    requests_per_minute = 60
    tokens_per_minute = 20_000
    concurrent = 4

    [keys.edge-1]
    certificate_sha256 = "…"    # of a client certificate's DER form, in the place of a key
    owner = "berlin"            # sessions are this owner's; without it, the key's own name

Keys are 256 random bits, so one round of SHA-256 is all that a digest at rest needs: there is
nothing to guess that a slow hash would protect (unlike a password).
"""

import hmac
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.errors import Invalid

# What a key may be allowed. On the edge: to ask for texts, to overtake others with
# `priority: emergency`. On the cloud: to have sessions. On both: to read `/metrics`.
Scope = Literal["generate", "priority", "sessions", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
Kind = Literal["bearer", "certificate"]

_PREFIX = "tandem_"
_BUCKET_BYTES = 8

Digest = Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Count = Annotated[int, Field(strict=True, ge=1)]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a caller may ask for; `None` is no bound of its own."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


def limits_of(requests_per_minute: int, tokens_per_minute: int, concurrent: int) -> Limits:
    """Limits as settings say them: 0 is none."""
    return Limits(requests_per_minute or None, tokens_per_minute or None, concurrent or None)


@dataclass(frozen=True, slots=True)
class Key:
    """One key; `digest` is SHA-256 of the key's bytes or of a certificate's DER form."""

    name: str
    digest: bytes = field(repr=False)
    kind: Kind
    scopes: frozenset[Scope]
    owner: str
    expires: datetime | None = None
    limits: Limits = Limits()

    def expired(self, now: datetime) -> bool:
        """Whether it is too late for it."""
        return self.expires is not None and now >= self.expires


class KeyRing:
    """Keys, found by what was sent."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys: dict[tuple[Kind, bytes], list[Key]] = {}
        self.names: set[str] = set()
        for key in keys:
            bucket = self._keys.setdefault((key.kind, key.digest[:_BUCKET_BYTES]), [])
            bucket.append(key)
            self.names.add(key.name)

    def __len__(self) -> int:
        return len(self.names)

    def find(self, kind: Kind, digest: bytes) -> Key | None:
        """The key of a digest, expired or not. How long it takes tells nothing of the others: where
        to look depends on a hash of what was sent, and digests are compared in constant time.
        """
        bucket = self._keys.get((kind, digest[:_BUCKET_BYTES]), [])
        found = [key for key in bucket if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Digest | None = None
    certificate_sha256: Digest | None = None
    scopes: frozenset[Scope]
    owner: Name | None = None
    expires: AwareDatetime | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent: Count | None = None

    @model_validator(mode="after")
    def _one_digest(self) -> "_Entry":
        if (self.sha256 is None) == (self.certificate_sha256 is None):
            raise ValueError("either sha256 or certificate_sha256")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: dict[Name, _Entry]


def read_keys(text: str) -> KeyRing:
    """Return the keys that TOML tells of.

    Raises:
        Invalid: it cannot be read, or two keys are the same; what is wrong is named, no digest is.
    """
    try:
        entries = _File.model_validate(tomllib.loads(text)).keys
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"no TOML: {error}", field="keys") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "keys"
        raise Invalid(f"{where}: {first['msg']}", field=where) from error
    keys = [_key(name, entry) for name, entry in entries.items()]
    _require_different(keys)
    return KeyRing(keys)


def _key(name: str, entry: _Entry) -> Key:
    kind: Kind = "bearer" if entry.sha256 is not None else "certificate"
    return Key(
        name=name,
        digest=bytes.fromhex(entry.sha256 or entry.certificate_sha256 or ""),
        kind=kind,
        scopes=entry.scopes,
        owner=entry.owner or name,
        expires=entry.expires,
        limits=Limits(entry.requests_per_minute, entry.tokens_per_minute, entry.concurrent),
    )


def _require_different(keys: Iterable[Key]) -> None:
    names: Mapping[tuple[Kind, bytes], str]
    names = {}
    for key in keys:
        if (other := names.get((key.kind, key.digest))) is not None:
            raise Invalid(f"keys.{key.name}: the same key as keys.{other}", field="keys")
        names[key.kind, key.digest] = key.name


def digest_of(key: str) -> bytes:
    """SHA-256 of a key as it is sent in a header; beyond ASCII, of the bytes that were sent."""
    return sha256(key.encode("latin-1", "replace")).digest()


def new_key() -> str:
    """A key nobody can guess: 256 random bits after a word that secret scanners can look for."""
    return _PREFIX + secrets.token_urlsafe(32)


def now() -> datetime:
    """This moment, as keys' ends are told."""
    return datetime.now(UTC)
