"""Who asks, as far as this edge can tell: by a key it knows, or else by the address.

A key is known by its SHA-256 digest alone, and compared in constant time. It is neither kept nor
logged. Behind a proxy on another machine everybody without a key has the proxy's address.
"""

import hmac
import secrets
from collections.abc import Set
from dataclasses import dataclass, field
from hashlib import blake2b, sha256

_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """`client` is the name engines count a caller's share under, here and in the cloud: a digest
    that only this process can make.
    """

    client: str = ""
    may_overtake: bool = False


@dataclass(frozen=True, slots=True)
class Callers:
    """Tells callers apart.

    Args:
        emergency: SHA-256 digests of the keys that may ask for `priority: emergency`.
    """

    emergency: Set[bytes] = frozenset()
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def identify(self, authorization: str | None, address: str | None) -> Caller:
        """The caller with this `Authorization` header, if any, at this address."""
        digest = _digest(authorization)
        # Every one is looked at, so that the time tells nothing.
        known = [hmac.compare_digest(digest, each) for each in self.emergency]
        may_overtake = bool(digest) and any(known)
        name = b"key:" + digest if may_overtake else b"address:" + (address or "").encode()
        client = blake2b(name, key=self._secret, digest_size=8).hexdigest()
        return Caller(client, may_overtake)


def _digest(authorization: str | None) -> bytes:
    """SHA-256 of the bearer key; nothing where there is none."""
    if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
        return b""
    # As headers are read; a key beyond ASCII is hashed as the bytes that were sent.
    return sha256(authorization[len(_SCHEME) :].strip().encode("latin-1", "replace")).digest()
