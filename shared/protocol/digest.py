"""Prefix digests: the name of a node is the hash of everything before it (design: nodes, blocks,
reports).

`D_0 = H(model fingerprint, session, parameters)` and `D_{i+1} = H(D_i, token_i)`, 64 bits of
BLAKE2b. Two sides that hold the same digest hold the same tokens in the same order under the same
parameters, so fencing needs no counters.
"""

import struct
from collections.abc import Iterable
from hashlib import blake2b

DIGEST_BYTES = 8

_token = struct.Struct("<I").pack


def root_digest(fingerprint: str, session: str, parameters: bytes) -> bytes:
    """Return `D_0`, 8 bytes. `parameters` is the canonical encoding of everything the session
    was opened with.
    """
    hasher = blake2b(digest_size=DIGEST_BYTES, person=b"tandem-root")
    for part in (fingerprint.encode(), session.encode(), parameters):
        hasher.update(struct.pack("<I", len(part)))
        hasher.update(part)
    return hasher.digest()


def extend(digest: bytes, token: int) -> bytes:
    """Return the digest of the prefix named `digest` followed by `token`."""
    return blake2b(digest + _token(token), digest_size=DIGEST_BYTES).digest()


def extend_all(digest: bytes, tokens: Iterable[int]) -> list[bytes]:
    """Return the digest after each of `tokens`, in order; empty for no tokens."""
    chain = []
    for token in tokens:
        digest = extend(digest, token)
        chain.append(digest)
    return chain
