"""The edge's own record of a session: its nodes (tokens and prefix digests) and their coded states,
and blocks cut from it.

Sans I/O. The coded bytes are kept as first sent, so a cloud that lost the session is given exactly
the same states again.
"""

from collections.abc import Sequence

from shared.errors import CloudLost
from shared.protocol.digest import extend_all, root_digest
from shared.protocol.messages import Block, HiddenBlock, Opening, Report, Want
from shared.protocol.wire import canonical
from shared.quantization import CodedRows


class Chain:
    """Nodes of one session from position 0 on; `sent` is where the next block starts, and nodes at
    or beyond `final` may yet be taken back (`None`: no node ever is).

    Nodes whose token is known but whose state is not (the newest token, in modes that upload
    states) are not in the chain yet: `tokens` holds what can be sent.
    """

    def __init__(self, session: str, opening: Opening, *, hidden: int, vocab: int) -> None:
        self.session = session
        self.opening = opening
        self.tokens: list[int] = []
        self.digests = [root_digest(opening.fingerprint, session, canonical(opening))]
        self.states = CodedRows(opening.codec, hidden)
        self.sent = 0
        self.acknowledged = 0
        self.final: int | None = None
        self.revision = 0
        self._sequence = 0
        self._vocab = vocab
        self.heard = False  # whether any report has come
        self.opened = False  # whether the cloud is known to hold the session
        self.offered = False  # whether it may hold it: a block was sent, whatever came of it

    @property
    def sequence(self) -> int:
        """The newest block's number."""
        return self._sequence

    @property
    def end(self) -> int:
        """Positions in the chain."""
        return len(self.tokens)

    def extend(self, tokens: Sequence[int], states: HiddenBlock | None) -> None:
        """Add nodes, with their coded states where the session carries them."""
        self.digests += extend_all(self.digests[-1], tokens)
        self.tokens += tokens
        if states is not None:
            self.states.append(states)

    def cut(self, *, want: Want, count: int = 0) -> Block:
        """Return the block of everything not sent yet, and count it as sent."""
        start, self.sent = self.sent, self.end
        self.offered = True
        tokens = tuple(self.tokens[start:])
        return Block(
            session=self.session,
            sequence=self.next_sequence(),
            revision=self.revision,
            acknowledged=self.acknowledged,
            parent=self.digests[start],
            start=start,
            tokens=tokens,
            binding=self.end if self.final is None else min(self.final, self.end),
            states=self.states.slice(start, self.end) if tokens and self.states.end else None,
            want=want,
            count=count,
            opening=None if self.opened else self.opening,
        )

    def next_sequence(self) -> int:
        """Number another block."""
        self._sequence += 1
        return self._sequence

    def unsend(self, start: int) -> None:
        """Send again from `start`: a block was lost, or the cloud asked for it (from 0 where it
        lost the session).
        """
        self.sent = min(self.sent, start)
        self.opened = self.opened and start > 0

    def move(self, revision: int | None = None) -> None:
        """Go on at another replica, or at `revision` where others have had the session."""
        self.revision = self.revision + 1 if revision is None else revision
        self.opened = False

    def hear(self, report: Report) -> None:
        """Take in what a report says of the session as such.

        Raises:
            CloudLost: it speaks for an earlier revision.
        """
        if report.revision < self.revision:
            raise CloudLost("a replica answered that the session has left", reason="moved")
        if not self.heard and report.sequence > self._sequence:
            # An earlier life of this session has got further: what is sent from now on is newer.
            self.move(report.revision + 1)
        self.heard = True
        self.opened = report.need_from != 0 and report.revision == self.revision

    def truncate(self, end: int) -> None:
        """Drop every node at positions >= `end`; the next block starts there at the latest."""
        del self.tokens[end:]
        del self.digests[end + 1 :]
        self.states.truncate(end)
        self.sent = min(self.sent, end)

    def settle(self, report: Report, token: int) -> tuple[int, int]:
        """Return the position and the token to go on with, after `report` decided `token` beyond
        the chain: these, or the cloud's choice at the first node not final that it disagreed with,
        which is dropped with all that follow.

        Raises:
            CloudLost: the choice is no token, or the one it is said to replace.
        """
        position = self.end
        final = position if self.final is None else self.final
        against = [d for d in report.disagreements if final <= d.position < position]
        if against:
            first = min(against, key=lambda each: each.position)
            position, token = first.position, first.token
            if token >= self._vocab or token == self.tokens[position]:
                raise CloudLost("the cloud disagreed without a choice", reason="malformed")
            self.truncate(position)
        self.acknowledged = position + 1
        return position, token

    def next_tokens(self, report: Report) -> Sequence[int]:
        """Return the tokens `report` decides beyond the chain, checked against its digest; empty if
        it has no news.

        Raises:
            CloudLost: the report speaks of another prefix than this chain's.
        """
        fresh = report.through - self.end
        if fresh <= 0:
            return ()
        if fresh > len(report.tokens):
            raise CloudLost("the cloud's report leaves out tokens", reason="malformed")
        tokens = report.tokens[-fresh:]
        if max(tokens) >= self._vocab:
            raise CloudLost("the cloud decided on no token of this model", reason="malformed")
        if extend_all(self.digests[-1], tokens)[-1] != report.digest:
            raise CloudLost("the cloud decided on another prefix than this one", reason="diverged")
        return tokens
