"""A session's log as a store keeps it: entries that are only ever added, each saying what has
changed since the one before. Drafts are never in it, nor KV, which is made from it.

Pure: from a context to entries, and from entries to what a context is to say; it knows no store.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from services.cloud.contexts.context import Context
from services.cloud.contexts.verified import VerifiedContext
from shared import quantization
from shared.errors import Malformed
from shared.protocol.digest import extend_all, root_digest
from shared.protocol.messages import (
    Disagreement,
    HiddenBlock,
    Opening,
    Position,
    Revision,
    Seconds,
    Tokens,
)
from shared.protocol.wire import canonical, pack, unpack
from shared.quantization import CodedRows, RowLayout

# Positions of an entry, and bytes of its states beyond which another is begun: what a store sends
# back comes in pieces of bounded size.
MAX_TOKENS = 65_536
MAX_STATE_BYTES = 1 << 20

_FORBID_EXTRA = ConfigDict(extra="forbid")
Count = Annotated[int, Field(strict=True, ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a session has come to, besides tokens and states; the fields of `Context`."""

    revision: Revision = 0  # the one `sequence` orders the frames of
    sequence: Count = 0
    confirmed: Position = 0
    judged: Position = 0
    judgements: Count = 0
    passes: Count = 0
    compute_seconds: Seconds = 0.0
    near_ties: Count = 0
    as_ids: Position = 0

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA

    @classmethod
    def of(cls, context: Context) -> "Facts":
        """Those of a context now."""
        return cls(
            revision=context.revision,
            sequence=context.sequence,
            confirmed=context.confirmed,
            judged=context.judged,
            judgements=context.judgements,
            passes=context.passes,
            compute_seconds=context.compute_seconds,
            near_ties=context.near_ties,
            as_ids=context.as_ids if isinstance(context, VerifiedContext) else 0,
        )

    @property
    def binding(self) -> tuple[int, ...]:
        """Those a log is written for by themselves. A frame that changed none of these, nor a
        token, fences nothing: its number need not be known.
        """
        return (self.confirmed, self.judged, self.judgements, self.as_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What changed: the log is cut at `start`, and goes on with `tokens`; `states` go on where
    those before end. The first entry holds the opening. Facts come with the last entry of a save,
    and disagreements not told before.
    """

    start: Position
    tokens: Tokens = ()
    states: HiddenBlock | None = None
    disagreements: tuple[Disagreement, ...] = ()
    facts: Facts | None = None
    opening: Opening | None = None

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_EXTRA


_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


@dataclass(slots=True)
class Mark:
    """How much of a context the store has, as far as `Context.stored_to` has not been lowered."""

    through: int = 0
    states: int = 0
    facts: Facts = field(default_factory=Facts)


@dataclass(slots=True)
class Stored:
    """A log as it was read: what a context is to say."""

    opening: Opening
    digests: list[bytes]
    states: CodedRows
    facts: Facts
    tokens: list[int] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)

    @property
    def mark(self) -> Mark:
        """That of a context which has taken all of it over."""
        return Mark(len(self.tokens), self.states.end, self.facts)

    @property
    def nbytes(self) -> int:
        """Bytes it takes in a context, roughly."""
        return self.states.nbytes + 16 * len(self.tokens)


def mark_of(context: Context) -> Mark:
    """The mark after saving everything."""
    return Mark(context.through, context.states.end, Facts.of(context))


def changes(context: Context, mark: Mark | None) -> list[Entry]:
    """What the log lacks, given how much it has; with `None` the whole log. Empty if nothing."""
    facts, first = Facts.of(context), mark is None
    mark = mark or Mark(facts=Facts(judged=context.opening.prompt_tokens))
    start = 0 if first else min(context.stored_to, mark.through)
    row = min(mark.states, start)
    known = min(mark.facts.judged, max(start, context.opening.prompt_tokens))
    same = (start, row, facts.binding) == (mark.through, context.states.end, mark.facts.binding)
    if same and start == context.through and not first:
        return []
    rows = max(1, MAX_STATE_BYTES // RowLayout.of(context.opening.codec, context.hidden).payload)
    entries: list[Entry] = []
    done = False
    while not done:
        stop = min(context.through, start + MAX_TOKENS)
        end = min(context.states.end, row + rows, stop)
        done = (stop, end) == (context.through, context.states.end)
        fresh = tuple(d for d in context.disagreements if d.position >= known)
        entries.append(
            Entry(
                start=start,
                tokens=tuple(context.tokens[start:stop]),
                states=context.states.slice(row, end) if end > row else None,
                disagreements=fresh if done else (),
                facts=facts if done else None,
                opening=context.opening if first and not entries else None,
            )
        )
        start, row = stop, end
    return entries


def encode(entry: Entry) -> bytes:
    """Return an entry's bytes, to be sealed."""
    return pack(entry)


def decode(entry: bytes) -> Entry:
    """Return the entry in these bytes.

    Raises:
        Malformed: they are none.
    """
    try:
        return _ENTRY.validate_python(unpack(entry))
    except ValidationError as error:
        raise Malformed("the bytes are no entry of a log", code="field") from error


def read(
    entries: Iterable[Entry], *, session: str, hidden: int, vocab: int
) -> tuple[Stored | None, int]:
    """Replay entries as long as they are sound (getting one may raise `Malformed`) and fit a model
    of this width and vocabulary; returns what they say, and how many these are.
    """
    stored: Stored | None = None
    sound = 0
    try:
        for entry in entries:
            if (stored is None) != (entry.opening is not None):
                raise Malformed("a log's opening is in its first entry, and only there")
            stored = stored or _begin(session, entry.opening, hidden)
            _check(entry, stored, vocab)
            _replay(entry, stored)
            sound += 1
    except Malformed:
        return (stored if sound else None), sound
    return stored, sound


def _begin(session: str, opening: Opening | None, hidden: int) -> Stored:
    assert opening is not None, session
    root = root_digest(opening.fingerprint, session, canonical(opening))
    states = CodedRows(opening.codec, hidden)
    return Stored(opening, [root], states, Facts(judged=opening.prompt_tokens))


def _check(entry: Entry, stored: Stored, vocab: int) -> None:
    """Refuse an entry that cannot follow what was read before it."""
    through = entry.start + len(entry.tokens)
    if entry.start > len(stored.tokens) or through > stored.opening.max_positions:
        raise Malformed("an entry does not follow the one before", code="position")
    if any(token >= vocab for token in entry.tokens):
        raise Malformed(f"a token id is beyond the vocabulary of {vocab}", code="token")
    if entry.states is not None:
        quantization.validate(entry.states, hidden=stored.states.hidden)
        rows = min(stored.states.end, entry.start) + entry.states.shape[0]
        if entry.states.codec != stored.opening.codec or rows > through:
            raise Malformed("the states of an entry are not its log's", code="shape")
    facts = entry.facts
    if facts is not None and not (
        max(facts.confirmed, facts.as_ids) <= through
        and facts.judged <= max(through, stored.opening.prompt_tokens)
    ):
        raise Malformed("what an entry says of its log is beyond it", code="position")


def _replay(entry: Entry, stored: Stored) -> None:
    start = entry.start
    del stored.tokens[start:], stored.digests[start + 1 :]
    stored.states.truncate(start)
    stored.digests += extend_all(stored.digests[-1], entry.tokens)
    stored.tokens += entry.tokens
    if entry.states is not None:
        stored.states.append(entry.states)
    kept = [d for d in stored.disagreements if d.position < start]
    stored.disagreements = [*kept, *entry.disagreements]
    stored.facts = entry.facts or stored.facts
