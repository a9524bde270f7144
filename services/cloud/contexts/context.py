"""What the cloud holds of one session: the log of decided tokens and coded states, and the KV cache
made from it.

Blocks are applied here and reports read off; fencing is by digest (design: nodes, blocks, reports).
Nothing here waits, computes or speaks HTTP, so every case can be tested by calling it.
"""

import asyncio
from dataclasses import dataclass
from enum import Enum

from shared.decoding.sampling import PrefixState
from shared.errors import Fenced, Malformed, Mismatch
from shared.model import KVCache
from shared.protocol.digest import extend_all, root_digest
from shared.protocol.messages import (
    Block,
    Disagreement,
    Opening,
    Pressure,
    Report,
)
from shared.protocol.wire import canonical
from shared.quantization import CodedRows
from shared.runtime.work import Claim


class Standing(Enum):
    """How a block stands to what the context holds."""

    APPLIED = "applied"
    STALE = "stale"  # older than what is known; nothing to do
    AHEAD = "ahead"  # its parent is not here yet: an earlier block is under way or lost
    DIVERGED = "diverged"  # newer, on a prefix this context does not hold


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Lender:
    """A prompt that has run: its KV, and its coded states as far as there are any."""

    cache: KVCache
    states: CodedRows


def key_of(owner: str, session: str) -> str:
    """What a session is found by in every store: one owner's name for it is not another's. No
    session's id has a colon.
    """
    return f"{owner}:{session}" if owner else session


class Context:
    """One session in the cloud; it is its owner's, and nobody else finds it.

    `tokens` are the decided positions: prompt, tokens the edge kept, tokens the cloud chose. Below
    `confirmed` the edge holds them for good; the cloud's own choices beyond are offers, which a
    newer block of the edge may supersede (a report was lost and the edge went on by itself).
    `judged` is the position up to which the full model has had its say. What a store has of it is
    the store's to remember; here is only from where on it is no longer true (`stored_to`).
    """

    def __init__(self, session: str, opening: Opening, *, hidden: int, owner: str = "") -> None:
        self.session = session
        self.owner = owner
        self.key = key_of(owner, session)
        # Shares, KV of prompts and stored bytes are counted under it: an edge's callers, for its
        # owner alone.
        self.client = f"{owner}:{opening.client}" if owner else opening.client
        self.opening = opening
        self.hidden = hidden
        self.tokens: list[int] = []
        self.digests = [root_digest(opening.fingerprint, session, canonical(opening))]
        self.states = CodedRows(opening.codec, hidden)
        self.cache: KVCache | None = None
        self.confirmed = 0
        self.sequence = 0
        self.revision = 0
        # What the edge sent before went elsewhere: nothing is under way that is worth a wait.
        self.taken_over = False
        self.stored_to = 0  # positions that are as the store last saw them
        self.judged = opening.prompt_tokens
        self.judgements = 0
        self.disagreements: list[Disagreement] = []
        self.passes = 0
        self.compute_seconds = 0.0
        self.near_ties = 0  # choices so close that another pass shape might make them otherwise
        self.turn = asyncio.Condition()  # held by whoever changes or computes on this context
        self.claim = Claim(self.client, opening.priority)
        self.lender: Lender | None = None  # once its prompt has run; see `prefixes`
        self.chunk_names: dict[bool, list[bytes]] = {}
        self.users = 0
        self.last_used = 0.0
        self.counted = 0  # bytes the store has on its books for this context
        self._folded = PrefixState.start(())
        self._folded_to = 0

    @property
    def through(self) -> int:
        """Positions decided."""
        return len(self.tokens)

    @property
    def ended(self) -> bool:
        """Whether no token may follow."""
        ended = self.through > self.opening.prompt_tokens and (
            self.tokens[-1] in self.opening.sampling.eos_ids
        )
        return ended or self.through >= self.opening.max_positions

    @property
    def carries_states(self) -> bool:
        """Whether the edge uploads states (else tokens alone, and the cloud runs every layer)."""
        return self.opening.split > 0

    @property
    def nbytes(self) -> int:
        """Bytes held for this session: log and KV (8 bytes of digest and 8 of token per
        position, roughly).
        """
        return self.states.nbytes + 16 * len(self.tokens) + (self.cache.nbytes if self.cache else 0)

    def require_same(self, opening: Opening) -> None:
        """Refuse a second opening of this session with other parameters."""
        if opening != self.opening:
            raise Mismatch({"opening": (opening, self.opening)})

    def apply(self, block: Block) -> Standing:
        """Take in what is new in `block`; applying it twice changes nothing.

        Raises:
            Fenced: the session has gone on at a later revision.
            Malformed: the block contradicts itself, or changes a token the edge had confirmed.
        """
        self._check(block)
        self.claim_for(block.revision)
        if block.start > self.through or (self.carries_states and block.start > self.states.end):
            return Standing.AHEAD
        newer = block.sequence > self.sequence
        if self.digests[block.start] != block.parent:
            return Standing.DIVERGED if newer else Standing.STALE
        fork = self._fork(block)
        if fork is not None:
            if not newer:
                return Standing.STALE
            if fork < self.confirmed:
                raise Malformed(f"position {fork} was already confirmed", code="conflict")
            self.truncate(fork)
        self._extend(block)
        self.taken_over = False
        self.sequence = max(self.sequence, block.sequence)
        self.confirmed = max(self.confirmed, min(block.binding, self.through))
        return Standing.APPLIED

    def append(self, token: int) -> None:
        """Add a token the cloud has decided."""
        self.digests += extend_all(self.digests[-1], (token,))
        self.tokens.append(token)
        self.judged = self.through
        self.claim.live = self.claim.live and not self.ended

    def judge(self, position: int, chosen: int) -> None:
        """Record what the full model would have put at a position the edge decided."""
        self.judged = position + 1
        self.judgements += 1
        if chosen != self.tokens[position]:
            self.disagreements.append(Disagreement(position=position, token=chosen))

    def truncate(self, end: int) -> None:
        """Drop every position >= `end` from log and KV."""
        self.stored_to = min(self.stored_to, end)
        del self.tokens[end:]
        del self.digests[end + 1 :]
        self.states.truncate(end)
        if self.cache is not None:
            self.cache.truncate(end)
        self.judged = min(self.judged, max(end, self.opening.prompt_tokens))
        self.disagreements = [d for d in self.disagreements if d.position < end]
        if end < self._folded_to:
            self._folded_to = 0

    def prefix_state(self, position: int) -> PrefixState:
        """Return the fold over the tokens before `position`, which must be decided."""
        if position < max(self._folded_to, self.opening.prompt_tokens) or self._folded_to == 0:
            self._folded = PrefixState.start(self.tokens[: self.opening.prompt_tokens])
            self._folded_to = self.opening.prompt_tokens
        for token in self.tokens[self._folded_to : position]:
            self._folded = self._folded.advance(token)
        self._folded_to = position
        return self._folded

    def report(
        self,
        *,
        acknowledged: int,
        held: int,
        seconds: float,
        pressure: Pressure,
        need_from: int | None = None,
        leaving: bool = False,
    ) -> Report:
        """Return everything an edge has to learn that has taken in reports up to `acknowledged`
        and holds the tokens of `held` positions.
        """
        return Report(
            session=self.session,
            revision=self.revision,
            sequence=self.sequence,
            through=self.through,
            digest=self.digests[-1],
            tokens=tuple(self.tokens[held:]),
            need_from=need_from,
            judged=self.judgements,
            disagreed=len(self.disagreements),
            disagreements=tuple(d for d in self.disagreements if d.position >= acknowledged),
            passes=self.passes,
            compute_seconds=self.compute_seconds,
            seconds=seconds,
            near_ties=self.near_ties,
            pressure=pressure,
            leaving=leaving,
        )

    def claim_for(self, revision: int) -> None:
        """Go on at `revision`: whatever comes of an earlier one is late from now on.

        Raises:
            Fenced: the session has gone on at a later one.
        """
        if revision < self.revision:
            raise Fenced(self.revision)
        if revision > self.revision:
            self.revision, self.sequence, self.taken_over = revision, 0, True

    def _check(self, block: Block) -> None:
        end = block.start + len(block.tokens)
        if end > self.opening.max_positions:
            raise Malformed(
                f"position {end} is beyond the {self.opening.max_positions} agreed", code="position"
            )
        final = end
        if self.opening.mode == "collaborative":  # what was kept may yet be taken back
            final = min(end, self.opening.prompt_tokens)
        if block.binding < final:
            raise Malformed(f"mode {self.opening.mode} takes no drafts here", code="drafts")
        self._check_states(block)

    def _check_states(self, block: Block) -> None:
        if self.carries_states != (block.states is not None) and block.tokens:
            raise Malformed("a session carries states in every block or in none", code="shape")
        if block.states is not None and block.states.codec != self.opening.codec:
            raise Malformed(f"codec {block.states.codec} is not the session's", code="codec")
        if block.states is not None and block.states.shape[0] != len(block.tokens):
            raise Malformed(
                f"{block.states.shape[0]} states for {len(block.tokens)} tokens", code="shape"
            )

    def _fork(self, block: Block) -> int | None:
        """Return the first position where `block` differs from the tokens held, if any."""
        held = self.tokens[block.start : block.start + len(block.tokens)]
        for offset, (mine, theirs) in enumerate(zip(held, block.tokens, strict=False)):
            if mine != theirs:
                return block.start + offset
        return None

    def _extend(self, block: Block) -> None:
        new = block.tokens[self.through - block.start :] if self.through >= block.start else ()
        self.digests += extend_all(self.digests[-1], new)
        self.tokens += new
        if block.states is not None:
            skip = self.states.end - block.start
            if skip < len(block.tokens):
                self.states.append(block.states, skip)
