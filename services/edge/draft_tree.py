"""What a tree of drafts is made of: its nodes, the steps that run them, and what is decided."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.decoding.sampling import PrefixState, Ranking
from shared.protocol.messages import HiddenBlock


@dataclass(slots=True, eq=False)
class Node:
    """A token after `parent`. `chance` is that it follows, given the parent does.

    `slot` is its row of KV once it is run or running; `ranking` is what the exit in front of layer
    `exit` says may follow; `coded` its state (block, row) once it is
    `ready` to be sent; `asked` says that a pass was asked for which looks at it.
    """

    token: int
    position: int
    digest: bytes
    parent: "Node | None"
    prefix: PrefixState | None
    chance: float = 1.0
    children: "dict[int, Node]" = field(default_factory=dict)
    slot: int | None = None
    coded: tuple[HiddenBlock, int] | None = None
    ready: bool = False
    ranking: Ranking | None = None
    exit: int = 0
    decided: bool = False
    sent: bool = False
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """Rows to run: first the KV's slots from `base` on shrink to `keep`, then `nodes` follow them.

    `parents` are those of all slots from `line` (the first that is not decided) on, counted from
    there; -1 is the decided prefix.
    """

    nodes: Sequence[Node]
    base: int
    keep: Sequence[int]
    line: int
    parents: Sequence[int]


@dataclass(frozen=True, slots=True)
class Decided:
    """A token of the text: whether the edge had drafted it, and with what chance."""

    token: int
    drafted: bool
    chance: float | None
