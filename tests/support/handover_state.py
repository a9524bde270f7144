"""What there is in the model of hand-overs (`handover_model`): rules, faults, and all its state."""

from dataclasses import dataclass
from typing import NamedTuple

TOKENS = "ab"
REPLICAS = (0, 1)
LIFE = 10  # revisions a life has to itself
Step = tuple[str, "State"]


@dataclass(frozen=True)
class Rules:
    """The fences; each one taken out is a mistake the search has to find. The last is one that the
    real system does not have.
    """

    store_fences_writes: bool = True  # a write of an earlier revision is refused
    store_compares: bool = True  # and one by a writer that has not seen the log as it is
    store_fences_claims: bool = True
    claims_load: bool = True  # a replica goes on from the stored log, not from its own
    replica_fences: bool = True  # a replica refuses blocks of an earlier revision than it holds
    saved_before_told: bool = True
    edge_compares_digests: bool = True
    edge_compares_revisions: bool = True
    first_word_claims: bool = True  # a life that has heard nothing goes beyond who fences it
    lives_begin_later: bool = True  # a life begins at a revision no earlier one has come to


@dataclass(frozen=True)
class Faults:
    """How often each may happen within one run, and how much the edge may do."""

    tokens: int = 2
    sends: int = 3
    moves: int = 1
    crashes: int = 0
    restarts: int = 0
    aways: int = 0  # questions the store does not answer
    losses: int = 0  # of all the store has
    ahead: int = 0  # tokens replicas decide beyond the one asked for, as in a stream


class Block(NamedTuple):
    """All the edge holds, sent at `revision`; `life` is whose connection the answer goes to."""

    revision: int
    sequence: int
    held: str
    life: int


class Answer(NamedTuple):
    """What a block is answered with: a report of a log, or a refusal."""

    kind: str  # "report", "fenced" or "conflict"
    revision: int  # the block's
    log: str = ""
    by: int = 0  # of `fenced`: the later revision; of a report: the newest frame's number


class Edge(NamedTuple):
    """The edge; `past` are the texts its earlier lives have given out."""

    revision: int = 0
    sequence: int = 0
    held: str = ""
    heard: bool = False
    life: int = 0
    past: frozenset[str] = frozenset()
    failed: bool = False


class Replica(NamedTuple):
    """A replica's context (`revision` -1: none) and the block it is at work on. `synced`: it knows
    the stored log as it is.
    """

    revision: int = -1
    sequence: int = 0
    log: str = ""
    confirmed: int = 0
    synced: bool = False
    job: Block | None = None


class Record(NamedTuple):
    """What the store has."""

    revision: int
    log: str
    confirmed: int
    sequence: int
    written_at: int  # the revision `sequence` counts the frames of


class State(NamedTuple):
    """Everything there is, and what has been used up of the budget."""

    edge: Edge = Edge()
    replicas: tuple[Replica, Replica] = (Replica(), Replica())
    record: Record | None = None
    blocks: frozenset[Block] = frozenset()
    answers: frozenset[Answer] = frozenset()
    used: tuple[int, ...] = (0,) * 7


class Broken(Exception):
    """An invariant does not hold."""


def with_replica(state: State, at: int, replica: Replica) -> State:
    """The state with another replica `at` this place."""
    first, second = state.replicas
    return state._replace(replicas=(replica, second) if at == 0 else (first, replica))


def answered(state: State, block: Block, answer: Answer) -> State:
    """An answer goes to the life that asked."""
    if block.life != state.edge.life:
        return state
    return state._replace(answers=state.answers | {answer})


def fork_of(log: str, held: str) -> int | None:
    """The first position where both have a token, and not the same."""
    return next((n for n, (a, b) in enumerate(zip(log, held, strict=False)) if a != b), None)


def agreeing(one: str, other: str) -> bool:
    """Whether one is a prefix of the other."""
    return fork_of(one, other) is None


def longer_of(mine: str, theirs: str) -> str:
    """`theirs`, unless `mine` goes on where it ends."""
    return mine if mine.startswith(theirs) else theirs
