"""When a fault strikes: not by the clock, but by the token the two sides are at.

The proxy reads every frame that passes and says which token of which session it is about; token 0
is the first of the answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from shared.errors import TandemError
from shared.protocol.messages import Block, Close, Opening, Report, Want
from shared.protocol.wire import decode, decode_blocks, frame_length

LIMIT = 1 << 27


class Moment(StrEnum):
    """Where a frame is when the proxy holds it."""

    REQUEST = "before the request for it"  # the replica knows nothing of it yet
    DECIDED = "decided, not heard"  # the replica has answered, the edge has not heard
    HEARD = "heard"  # the edge has the answer
    CLOSE = "before the close"  # the edge is done with the session


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame the proxy holds, or has just sent on (`Moment.HEARD`).

    `token` is the one asked for, or the newest one decided.
    """

    moment: Moment
    replica: int
    session: str
    revision: int
    mode: str
    token: int


@dataclass(slots=True)
class Ledger:
    """What has been seen of every session."""

    openings: dict[str, Opening] = field(default_factory=dict)
    decided: dict[str, int] = field(default_factory=dict)  # positions, by session
    seen: list[Seen] = field(default_factory=list)

    def going_up(self, replica: int, body: bytes) -> Seen | None:
        """Take note of a body of blocks; what it asks for, if it asks for a token."""
        try:
            blocks = decode_blocks(body, limit=LIMIT)
        except TandemError:
            return None
        last = blocks[-1]
        opening = next((block.opening for block in blocks if block.opening is not None), None)
        if opening is not None:
            self.openings[last.session] = opening
        if last.want is Want.NOTHING or last.session not in self.openings:
            return None
        mode = self.openings[last.session].mode
        # Drafts of `verified` go beyond what is asked for; other modes ask beyond their last node.
        first = last.acknowledged if mode == "verified" else last.start + len(last.tokens)
        return self._noted(Moment.REQUEST, replica, last, first)

    def closing(self, replica: int, body: bytes) -> Seen | None:
        """Take note of a close."""
        try:
            message = decode(body, limit=LIMIT)
        except TandemError:
            return None
        if not isinstance(message, Close) or message.session not in self.openings:
            return None
        done = self.decided.get(message.session, 0)
        return self._noted(Moment.CLOSE, replica, message, done - 1)

    def coming_down(self, replica: int, report: Report) -> Seen | None:
        """Take note of a report; what it decides, if that is news."""
        if report.session not in self.openings:
            return None
        prompt = self.openings[report.session].prompt_tokens
        if report.through <= max(prompt, self.decided.get(report.session, 0)):
            return None
        self.decided[report.session] = report.through
        return self._noted(Moment.DECIDED, replica, report, report.through - 1)

    def heard(self, seen: Seen) -> Seen:
        """The same report, now with the edge."""
        after = Seen(Moment.HEARD, seen.replica, seen.session, seen.revision, seen.mode, seen.token)
        self.seen.append(after)
        return after

    def of(self, moment: Moment, session: str | None = None) -> Sequence[Seen]:
        """Everything seen of one kind, of one session or of all."""
        held = list(self.seen)
        return [s for s in held if s.moment is moment and session in (None, s.session)]

    def _noted(
        self, moment: Moment, replica: int, message: Block | Report | Close, position: int
    ) -> Seen:
        opening = self.openings[message.session]
        token = position - opening.prompt_tokens
        seen = Seen(moment, replica, message.session, message.revision, opening.mode, token)
        self.seen.append(seen)
        return seen


@dataclass(slots=True)
class Frames:
    """The reports of an answer, as they become complete."""

    _buffer: bytes = b""

    def feed(self, content: bytes) -> Iterator[Report]:
        """Take in a part of the body; faults and what is no frame are passed over."""
        self._buffer += content
        while len(self._buffer) >= 8:
            try:
                length = frame_length(self._buffer, limit=LIMIT)
                if len(self._buffer) < length:
                    return
                message = decode(self._buffer[:length], limit=LIMIT)
            except TandemError:
                self._buffer = b""
                return
            self._buffer = self._buffer[length:]
            if isinstance(message, Report):
                yield message
