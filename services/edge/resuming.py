"""A conversation by the name its caller gives it (header `X-Session-ID`).

A request sent again under the same name, to this edge or to another, is the same session in the
cloud: it has the same tokens, and goes on where the context there ends. So the name of the session
and, where the request names none, its seed are functions of what was asked, and of nothing else.
"""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgpack

from services.edge.policy import Rules
from shared.errors import Invalid
from shared.protocol.messages import Opening
from shared.protocol.wire import canonical

HEADER_SESSION = "x-session-id"
# Seconds since 1970 from which revisions count (November 2023): 31 bits last for 68 years.
_EPOCH = 1_700_000_000
_NAME = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a caller calls its conversation, and what it came in with: one caller's name is not
    another's.

    `credential` is its `Authorization` header, or else its certificate's digest. Another key is
    another session, also where both are the same owner's. Those without either have the same
    names: who asks the same there is given the same text, and no more can be had by a name.
    """

    name: str
    credential: str = ""

    @property
    def client(self) -> str:
        """Whom the cloud counts shares and stored bytes for, and whose prompts share KV; the same
        on every edge.
        """
        return self._digest("client", 8).hexdigest()

    def seed(self, prompt: Sequence[int]) -> int:
        """The seed of a request that names none."""
        return int.from_bytes(self._digest("seed", 8, list(prompt)).digest(), "big") >> 1

    def session(self, opening: Opening, rules: Rules, prompt: Sequence[int]) -> str:
        """The session of a request: another for whatever would make another text."""
        policy = [rules.policy.name, sorted(rules.policy.numbers().items())]
        chances = [[n, *fit.weights, fit.bias] for n, fit in sorted(rules.chances.items())]
        kept = [policy, chances, rules.most_held, rules.on_cloud_loss]
        asked = self._digest("session", 16, canonical(opening), kept, list(prompt))
        return asked.hexdigest()

    def _digest(self, kind: str, size: int, *parts: object) -> "blake2b":
        said = msgpack.packb([self.name, self.credential, *parts], use_bin_type=True)
        return blake2b(said, digest_size=size, person=f"tandem-{kind}".encode())


def first_revision() -> int:
    """Where a life of a session begins: beyond what earlier ones have come to, so that nothing late
    of theirs can overtake it. Where edges' clocks differ, the cloud's refusal names what is beyond.
    """
    return max(0, int(time.time()) - _EPOCH)


def named(
    conversation: Conversation | None, opening: Opening, rules: Rules, prompt: Sequence[int]
) -> tuple[str, str, bool]:
    """The session of a request, the key its replica is chosen by, and whether it can be taken up
    again.

    With `repair` it cannot: what the text has replaced the log does not tell. Made anew, it is the
    same text.
    """
    session = secrets.token_hex(16)
    if conversation is None:
        return session, session, False
    if rules.most_held:
        return session, conversation.client, False
    return conversation.session(opening, rules, prompt), conversation.client, True


def conversation_of(
    name: str | None, authorization: str | None, certificate: bytes | None = None
) -> Conversation | None:
    """The conversation a request belongs to, if it says so.

    Raises:
        Invalid: it has no name that can be one.
    """
    if name is None:
        return None
    if not _NAME.fullmatch(name):
        raise Invalid(
            "X-Session-ID: allowed: 1 to 128 visible ASCII characters", field="X-Session-ID"
        )
    return Conversation(name, authorization or (certificate.hex() if certificate else ""))
