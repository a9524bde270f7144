"""A session in `verified` mode: the decided prefix, and undecided nodes an edge drafts beyond it.

Nodes are known by digest alone, so it does not matter in which order, how often or how late their
blocks come: a node counts once its parent is decided or counts itself, and goes when the prefix
takes another way. Nothing here waits, computes or speaks HTTP.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.cloud.contexts.context import Context, Standing
from shared.errors import Malformed
from shared.protocol.digest import extend
from shared.protocol.messages import Block, HiddenBlock, Opening


@dataclass(frozen=True, slots=True)
class Node:
    """A token after the prefix `parent`, and its coded state: row `row` of `states` (none where the
    cloud runs every layer, or the edge only announces it). Below a block's `binding` it is the
    edge's final word.
    """

    digest: bytes
    parent: bytes
    position: int
    token: int
    binding: bool
    states: HiddenBlock | None
    row: int


class VerifiedContext(Context):
    """`tokens` are decided; `nodes` may or may not follow them, as a pass will tell.

    `hungry` says that a pass was asked for and has not run for want of what it needs.

    Args:
        max_nodes: undecided nodes held; more are dropped, and sent again by an edge that sees no
            progress.
    """

    def __init__(
        self,
        session: str,
        opening: Opening,
        *,
        hidden: int,
        owner: str = "",
        max_nodes: int = 256,
    ) -> None:
        super().__init__(session, opening, hidden=hidden, owner=owner)
        self.nodes: dict[bytes, Node] = {}
        self.max_nodes = max_nodes
        self.hungry = False
        self.as_ids = 0  # up to here the edge may have left the states to be made here
        self._children: dict[bytes, list[bytes]] = {}

    @property
    def held(self) -> int:
        """Positions decided whose layers can be run: those with a state, where states travel."""
        return self.states.end if self.carries_states else self.through

    @property
    def announced(self) -> bool:
        """Whether the edge has said that it is running the last decided token as a draft."""
        node = self.nodes.get(self.digests[-1])
        return node is not None and node.states is None and not node.binding

    @property
    def allowed_nodes(self) -> int:
        """How many more undecided nodes it takes."""
        return max(0, self.max_nodes - len(self.nodes))

    @property
    def nbytes(self) -> int:
        """As `Context.nbytes`, with the nodes and their states."""
        coded = next((node.states for node in self.nodes.values() if node.states), None)
        width = (len(coded.payload) + len(coded.scales)) // coded.shape[0] if coded else 0
        return super().nbytes + len(self.nodes) * (64 + width)

    def apply(self, block: Block) -> Standing:
        """Take in what is new in `block`; applying it twice, late or out of order changes nothing.

        Raises:
            Fenced: the session has gone on at a later revision.
            Malformed: the block contradicts itself, or changes a token the edge had confirmed.
        """
        self._check(block)
        self.claim_for(block.revision)
        newer = block.sequence > self.sequence
        digest = block.parent
        if block.start <= self.confirmed and self.digests[block.start] != digest:
            if block.binding > block.start and newer:
                raise Malformed(f"position {block.start} was already confirmed", code="conflict")
            return Standing.STALE
        for row, token in enumerate(block.tokens):
            position = block.start + row
            parent, digest = digest, extend(digest, token)
            binding = position < block.binding
            if binding and block.states is None:
                self.as_ids = max(self.as_ids, position + 1)
            self._offer(Node(digest, parent, position, token, binding, block.states, row), newer)
        self.prune()
        self.sequence = max(self.sequence, block.sequence)
        self.confirmed = max(self.confirmed, min(block.binding, self._shared(block)))
        if block.acknowledged > self.through:
            return Standing.AHEAD
        self.taken_over = False
        return Standing.APPLIED

    def append(self, token: int) -> None:
        """Add a token the cloud has decided, with its state where a node brought one."""
        super().append(token)
        self._fill()

    def connected(self) -> Iterator[tuple[Node, int]]:
        """The nodes that stand on the decided prefix and can be run, parents first, each with the
        place of its parent in this very order (-1: the prefix).
        """
        places: dict[bytes, int] = {self.digests[-1]: -1}
        waiting = [self.digests[-1]]
        for parent in waiting:
            for digest in self._children.get(parent, ()):
                node = self.nodes[digest]
                if self.carries_states and node.states is None:
                    continue
                yield node, places[parent]
                places[digest] = len(places) - 1
                waiting.append(digest)

    def follow(self) -> None:
        """Bring the nodes after a prefix that was taken over from elsewhere."""
        self._fill()
        self.prune()

    def prune(self) -> None:
        """Drop the nodes the decided prefix has passed by, and those that stand on them."""
        gone = [
            node
            for node in self.nodes.values()
            if node.position < self.through
            and (self.digests[node.position + 1] != node.digest or node.position < self.held)
        ]
        while gone:
            node = gone.pop()
            if self.nodes.pop(node.digest, None) is None:
                continue
            self._unlink(node)
            off_path = (
                node.position >= self.through or self.digests[node.position + 1] != node.digest
            )
            if off_path:
                gone += [self.nodes[child] for child in self._children.get(node.digest, ())]

    def _check(self, block: Block) -> None:
        end = block.start + len(block.tokens)
        if end > self.opening.max_positions:
            raise Malformed(
                f"position {end} is beyond the {self.opening.max_positions} agreed", code="position"
            )
        if block.binding < min(end, self.opening.prompt_tokens):
            raise Malformed("a prompt is no draft", code="drafts")
        if block.states is not None or not self.carries_states:
            self._check_states(block)

    def _shared(self, block: Block) -> int:
        """Up to where the block shows the edge to hold what is decided here."""
        position, digest = block.start, block.parent
        if position > self.through or self.digests[position] != digest:
            return 0
        for token in block.tokens[: self.through - position]:
            digest = extend(digest, token)
            if self.digests[position + 1] != digest:
                break
            position += 1
        return position

    def _offer(self, node: Node, newer: bool) -> None:
        """Put a node where it belongs: the log, the undecided, or nowhere."""
        position = node.position
        if position < self.through:
            if self.digests[position + 1] == node.digest:
                if position >= self.held:
                    self._keep(node)
                    self._fill()
                return
            if not (node.binding and newer and self.digests[position] == node.parent):
                return  # a draft the prefix has passed by
            if position < self.confirmed:
                raise Malformed(f"position {position} was already confirmed", code="conflict")
            self.truncate(position)
        if position == self.through and node.binding and self.digests[-1] == node.parent:
            self._hold(node)
            self._bind(node)
            return
        self._keep(node)

    def _keep(self, node: Node) -> None:
        """Hold an undecided node, or a decided one whose state is not yet in the log, as far as
        there is room.
        """
        known = self.nodes.get(node.digest)
        if known is None:
            if len(self.nodes) < self.max_nodes:
                self._hold(node)
        elif not (known.binding >= node.binding and (known.states or not node.states)):
            kept = known if known.states is not None else node
            self._hold(replace(kept, binding=known.binding or node.binding))

    def _hold(self, node: Node) -> None:
        if node.digest not in self.nodes:
            self._children.setdefault(node.parent, []).append(node.digest)
        self.nodes[node.digest] = node

    def _bind(self, node: Node | None) -> None:
        """Decide what the edge calls final, as far as it follows the prefix without a gap."""
        while node is not None:
            super().append(node.token)
            self._fill()
            if node.states is None and node.digest in self.nodes:
                self._drop(node)  # it has said all it can
            following = [self.nodes[d] for d in self._children.get(node.digest, ())]
            node = next((each for each in following if each.binding), None)
        self.judged = self.through

    def _fill(self) -> None:
        """Move the states of decided nodes into the log, in order."""
        while self.held < self.through:
            node = self.nodes.get(self.digests[self.held + 1])
            if node is None or node.states is None:
                return
            self.states.append_row(node.states, node.row)
            self._drop(node)
        if not self.carries_states and (node := self.nodes.get(self.digests[-1])) is not None:
            self._drop(node)

    def _drop(self, node: Node) -> None:
        del self.nodes[node.digest]
        self._unlink(node)

    def _unlink(self, node: Node) -> None:
        siblings = self._children[node.parent]
        siblings.remove(node.digest)
        if not siblings:
            del self._children[node.parent]
