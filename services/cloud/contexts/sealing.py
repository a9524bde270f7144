"""How an entry of a stored log is closed: so that damage is seen, and with a key, nothing is read.

What an entry is sealed with includes its place (session, log and index): an entry moved to another
place is damage too.
"""

import os
import zlib
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import Malformed

_CHECKED, _ENCRYPTED = b"C", b"A"
_CHECKSUM_BYTES = 4
_NONCE_BYTES = 12


class Damaged(Malformed):
    """A stored entry is not what was stored at this place, or was sealed with another key."""

    code = "checksum"

    def __init__(self) -> None:
        super().__init__("a stored entry is not what was stored here")


class Seal(Protocol):
    """Closes entries, and opens only what it closed at the same place."""

    def close(self, entry: bytes, place: bytes) -> bytes:
        """Return the entry as it is stored."""
        ...

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Return the entry.

        Raises:
            Damaged: it was changed, moved, or closed by another seal.
        """
        ...


def place_of(key: str, log: str, index: int) -> bytes:
    """Where an entry belongs; `key` is the session's, its owner's name before it."""
    return f"{key}/{log}/{index}".encode()


@dataclass(frozen=True, slots=True)
class Checksum:
    """CRC-32 over place and entry: any flipped bit is seen; nobody is kept from forging one."""

    def close(self, entry: bytes, place: bytes) -> bytes:
        """See `Seal.close`."""
        return b"".join((_CHECKED, entry, self._sum(entry, place)))

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """See `Seal.open`."""
        entry, checksum = sealed[1:-_CHECKSUM_BYTES], sealed[-_CHECKSUM_BYTES:]
        if sealed[:1] != _CHECKED or checksum != self._sum(entry, place):
            raise Damaged
        return entry

    def _sum(self, entry: bytes, place: bytes) -> bytes:
        return zlib.crc32(entry, zlib.crc32(place)).to_bytes(_CHECKSUM_BYTES, "little")


@dataclass(frozen=True, slots=True)
class Encryption:
    """AES-256-GCM with a random nonce of 96 bits an entry: good for 2**32 entries a key (NIST SP
    800-38D, 8.3). An entry that is only checked is refused, or whoever writes to the store could
    put anything there.

    Args:
        key: 32 bytes.
    """

    key: bytes = field(repr=False)

    def close(self, entry: bytes, place: bytes) -> bytes:
        """See `Seal.close`."""
        nonce = os.urandom(_NONCE_BYTES)
        return b"".join((_ENCRYPTED, nonce, AESGCM(self.key).encrypt(nonce, entry, place)))

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """See `Seal.open`."""
        if sealed[:1] != _ENCRYPTED:
            raise Damaged
        nonce, coded = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return AESGCM(self.key).decrypt(nonce, coded, place)
        except (InvalidTag, ValueError) as error:
            raise Damaged from error


def seal_of(key: str) -> Seal:
    """The seal for a key of 64 hexadecimal digits; without one, a checksum."""
    return Encryption(bytes.fromhex(key)) if key else Checksum()
