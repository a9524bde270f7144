"""Tells callers apart: by a key or a certificate it knows, or, where the door is open, by address.

A key is neither kept nor logged. Behind a proxy on another machine everybody without a key has the
proxy's address.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b

from shared.access.caller import Caller
from shared.access.keys import Key, KeyRing, Limits, Scope, digest_of, now
from shared.errors import Unauthorized

_SCHEME = "bearer "


def _no_keys() -> KeyRing:
    return KeyRing(())


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """Lets callers in.

    Args:
        keys: the keys there are at this moment.
        strangers: what callers without a key may do; empty lets none of them in.
        here: they may, because only this machine can ask: a page of the web that had a name made to
            point at it is not let in (`names_another`).
        limits: of each stranger; a key's own limits are the key's.
        clock: when keys end.
    """

    keys: Callable[[], KeyRing] = _no_keys
    strangers: frozenset[Scope] = frozenset()
    here: bool = False
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], datetime] = now
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def identify(
        self, authorization: str | None, certificate: bytes | None, address: str | None
    ) -> Caller:
        """The caller with this `Authorization` header, this certificate's SHA-256, this address.

        What is sent has to be right: a wrong key is not a stranger.

        Raises:
            Unauthorized: no key where one is needed, or one that is unknown or has expired.
        """
        ring = self.keys()
        if authorization is not None:
            return self._known(self._bearer(ring, authorization))
        if certificate is not None and (key := ring.find("certificate", certificate)) is not None:
            return self._known(key)
        if not self.strangers:
            raise Unauthorized("no key was sent: send `Authorization: Bearer <key>`")
        return self.stranger(address)

    def stranger(self, address: str | None) -> Caller:
        """Whoever is at this address, without a key."""
        return Caller("", self._tag("address", address or ""), self.strangers, self.limits)

    def _bearer(self, ring: KeyRing, authorization: str) -> Key:
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthorized("an authorization of another kind than `Bearer <key>`")
        key = ring.find("bearer", digest_of(authorization[len(_SCHEME) :].strip()))
        if key is None:
            raise Unauthorized("this key is not known here")
        return key

    def _known(self, key: Key) -> Caller:
        if key.expired(self.clock()):
            raise Unauthorized("this key has expired")
        return Caller(key.owner, self._tag("key", key.name), key.scopes, key.limits, known=True)

    def _tag(self, kind: str, name: str) -> str:
        return blake2b(f"{kind}:{name}".encode(), key=self._secret, digest_size=8).hexdigest()
