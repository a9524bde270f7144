"""The session protocol's hand-overs as a small state machine, small enough to try everything.

One edge, two replicas, one store of logs, and a network that keeps every block and report for ever:
what is never delivered was lost, what is delivered twice was doubled, in whatever order. Any pass
may choose either of two tokens, as near ties may. `docs/protocol.md` (Hand-overs) has the rules;
every fence of them can be taken out (`Rules`), and faults are counted (`Faults`), so that all
there can be within a budget of them is visited, breadth first. Explicit states, as in TLC.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.handover_state import (
    LIFE,
    REPLICAS,
    TOKENS,
    Answer,
    Block,
    Broken,
    Edge,
    Faults,
    Record,
    Replica,
    Rules,
    State,
    Step,
    agreeing,
    answered,
    fork_of,
    longer_of,
    with_replica,
)


@dataclass
class Model:
    """The transitions under some rules and faults."""

    rules: Rules
    faults: Faults
    durable: bool  # the store has never failed: then nothing told may ever be forgotten

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that can happen next.

        Raises:
            Broken: it must not.
        """
        if state.edge.failed or len(state.edge.held) == self.faults.tokens:
            return
        yield from self._edge_steps(state)
        alike = state.replicas[0] == state.replicas[1]
        for at in REPLICAS[:1] if alike else REPLICAS:
            replica = state.replicas[at]
            if replica.job is None:
                for block in state.blocks:
                    yield from self.receive(state, at, block)
            else:
                yield from self.save(state, at)
            if replica.revision >= 0 and (after := self._spend(state, 2)):
                yield f"replica {at} crashes", with_replica(after, at, Replica())
        if state.record is not None and (after := self._spend(state, 5)):
            yield "the store loses all", after._replace(record=None)

    def normal(self, state: State) -> State:
        """The state without answers that can change nothing any more."""
        rules, edge = self.rules, state.edge
        if not (rules.edge_compares_revisions and rules.edge_compares_digests):
            return state
        known = len(edge.held)
        kept = {
            answer
            for answer in state.answers
            if answer.revision >= edge.revision
            and (
                answer.kind != "report"
                or not edge.heard
                or (len(answer.log) > known and answer.log.startswith(edge.held))
            )
        }
        return state if len(kept) == len(state.answers) else state._replace(answers=frozenset(kept))

    def _spend(self, state: State, what: int) -> State | None:
        limits = self.faults
        most = (limits.sends, limits.moves, limits.crashes, limits.restarts, limits.aways)
        if state.used[what] >= (*most, limits.losses, limits.ahead)[what]:
            return None
        used = tuple(n + (place == what) for place, n in enumerate(state.used))
        return state._replace(used=used)

    def _edge_steps(self, state: State) -> Iterator[Step]:
        edge = state.edge
        if after := self._spend(state, 0):
            edge_after = edge._replace(sequence=edge.sequence + 1)
            block = Block(edge.revision, edge_after.sequence, edge.held, edge.life)
            yield (
                f"the edge sends {block}",
                after._replace(edge=edge_after, blocks=after.blocks | {block}),
            )
        if after := self._spend(state, 1):
            moved = edge._replace(revision=edge.revision + 1)
            yield "the edge moves", after._replace(edge=moved)
        if after := self._spend(state, 3):
            first = (edge.life + 1) * LIFE if self.rules.lives_begin_later else 0
            born = Edge(first, life=edge.life + 1, past=edge.past | {edge.held})
            yield "the edge restarts", after._replace(edge=born, answers=frozenset())
        for answer in state.answers:
            heard = self.hear(state, answer)
            if heard != state:
                yield f"the edge hears {answer}", heard

    def hear(self, state: State, answer: Answer) -> State:
        """The edge takes in an answer."""
        edge, rules = state.edge, self.rules
        if answer.revision != edge.revision and (
            rules.edge_compares_revisions or answer.kind != "report"
        ):
            return state
        if answer.kind == "report":
            return state._replace(edge=self._take(state, answer))
        beyond = max(answer.by, edge.revision) + 1
        goes_on = answer.kind == "fenced" and rules.first_word_claims and not edge.heard
        moved = edge._replace(revision=beyond) if goes_on else edge._replace(failed=True)
        return state._replace(edge=moved)

    def _take(self, state: State, report: Answer) -> Edge:
        edge, log, record = state.edge, report.log, state.record
        known = len(edge.held)
        if not edge.heard and report.by > edge.sequence:
            # An earlier life of the session has got further: what is sent now has to be newer.
            edge = edge._replace(revision=edge.revision + 1)
        edge = edge._replace(heard=True)
        fits = log[:known] == edge.held
        if self.rules.edge_compares_digests and not fits:
            return edge
        if len(log) <= known:
            return edge
        if not fits:
            raise Broken(f"the edge holds {edge.held!r} and takes a report of {log!r}")
        if self.durable and not (record and record.log.startswith(log)):
            raise Broken(f"the edge takes {log!r}, which is not stored: {record}")
        if self.durable and any(not agreeing(text, log) for text in edge.past):
            raise Broken(f"an earlier life gave out {set(edge.past)}, this one {log!r}")
        return edge._replace(held=log)

    def receive(self, state: State, at: int, block: Block) -> Iterator[Step]:
        """A block arrives: the session is claimed where it has to be, the block applied, and a
        token decided.
        """
        replica = state.replicas[at]
        told = f"replica {at} gets {block}"
        if replica.revision > block.revision and self.rules.replica_fences:
            refusal = Answer("fenced", block.revision, by=replica.revision)
            yield told, answered(state, block, refusal)
            return
        if replica.revision >= block.revision:
            yield from self._apply(state, at, block, told)
            return
        if after := self._spend(state, 4):
            kept = self._claimed(replica, block.revision)
            yield from self._apply(
                with_replica(after, at, kept), at, block, told + ", the store is away"
            )
        record = state.record
        if record is None:
            kept = self._claimed(replica, block.revision)
            yield from self._apply(with_replica(state, at, kept), at, block, told)
        elif record.revision > block.revision and self.rules.store_fences_claims:
            refusal = Answer("fenced", block.revision, by=record.revision)
            yield told, answered(state, block, refusal)
        else:
            if record.revision > block.revision:
                raise Broken(f"{told}, and takes back a session that is at {record.revision}")
            claimed = record._replace(revision=block.revision)
            replica = self._taken_over(replica, claimed, block.revision)
            after = with_replica(state, at, replica)._replace(record=claimed)
            yield from self._apply(after, at, block, told + " and claims")

    def _claimed(self, replica: Replica, revision: int) -> Replica:
        return replica._replace(revision=revision, sequence=0, synced=False)

    def _taken_over(self, replica: Replica, record: Record, revision: int) -> Replica:
        """A context that says what the log says, at a new revision or its own."""
        later = revision > replica.revision
        log = record.log if later else longer_of(replica.log, record.log)
        if not self.rules.claims_load:
            log = replica.log
        confirmed = record.confirmed if log == record.log else replica.confirmed
        sequence = record.sequence if record.written_at == revision else 0
        return Replica(revision, sequence, log, min(confirmed, len(log)), synced=True)

    def _apply(self, state: State, at: int, block: Block, told: str) -> Iterator[Step]:
        replica = state.replicas[at]
        fork = fork_of(replica.log, block.held)
        newer = block.sequence > replica.sequence
        if fork is not None and newer and fork < replica.confirmed:
            yield told + ": conflict", answered(state, block, Answer("conflict", block.revision))
            return
        if fork is None or newer:
            log = replica.log if fork is None else replica.log[:fork]
            log = longer_of(log, block.held)
            replica = replica._replace(
                log=log,
                sequence=max(replica.sequence, block.sequence),
                confirmed=max(replica.confirmed, len(block.held)),
            )
        replica = replica._replace(job=block)
        if replica.log != block.held:  # decided already, or older than what is known
            yield told, with_replica(state, at, replica)
            return
        # Before anything is decided one token is as good as the other.
        fresh = not (replica.log or state.edge.past or any(r.log for r in state.replicas))
        fresh &= state.record is None or not state.record.log
        for token in TOKENS[:1] if fresh and not state.edge.held else TOKENS:
            decided = replica._replace(log=replica.log + token)
            yield f"{told} and decides {token}", with_replica(state, at, decided)

    def save(self, state: State, at: int) -> Iterator[Step]:
        """The log is written, and then the report; in between the world may have gone on."""
        replica = state.replicas[at]
        block = replica.job
        assert block is not None
        done = replica._replace(job=None)
        report = Answer("report", replica.revision, replica.log, replica.sequence)
        told = f"replica {at}"
        if not self.rules.saved_before_told:
            early = answered(state, block, report)
            if early != state:
                yield f"{told} tells {report} before it is saved", early
        if after := self._spend(state, 4):
            away = answered(with_replica(after, at, done), block, report)
            yield f"{told} tells {report}, the store is away", away
            yield from self._go_on(away, at, block)
        record, mine = state.record, replica.revision
        if record is not None and record.revision > mine and self.rules.store_fences_writes:
            refusal = Answer("fenced", block.revision, by=record.revision)
            gone = done._replace(synced=False)
            yield (
                f"{told} is fenced by the store",
                answered(with_replica(state, at, gone), block, refusal),
            )
            return
        behind = record is not None and record.revision == mine and not replica.synced
        if behind and self.rules.store_compares:
            assert record is not None
            followed = self._taken_over(done, record, mine)
            yield from self._apply(
                with_replica(state, at, followed), at, block, f"{told} is behind, follows"
            )
            return
        after = self._written(state, at, done)
        saved = answered(after, block, report)
        yield f"{told} saves and tells {report}", saved
        yield from self._go_on(saved, at, block)

    def _go_on(self, state: State, at: int, block: Block) -> Iterator[Step]:
        """A stream: with no more asked, the next token is decided."""
        replica = state.replicas[at]
        if len(replica.log) < self.faults.tokens and (after := self._spend(state, 6)):
            for token in TOKENS:
                log = replica.log + token
                yield (
                    f"replica {at} tells {replica.log!r}, goes on with {token}",
                    with_replica(after, at, replica._replace(log=log, job=block)),
                )

    def _written(self, state: State, at: int, replica: Replica) -> State:
        record, mine = state.record, replica.revision
        if record is not None and record.revision > mine:
            raise Broken(f"replica {at}, fenced at {mine}, changes a log of {record.revision}")
        if self.durable and not replica.log.startswith(state.edge.held):
            raise Broken(f"{replica.log!r} is stored where the edge holds {state.edge.held!r}")
        written = Record(mine, replica.log, replica.confirmed, replica.sequence, mine)
        both = tuple(r._replace(synced=False) for r in state.replicas)
        after = state._replace(record=written, replicas=(both[0], both[1]))
        return with_replica(after, at, replica._replace(synced=True))
