"""The edge's tree of drafts beyond the decided prefix of a session (mode `verified`).

A node is a token the full model may choose. Run, it has a state to send and a ranking of what may
follow; decided, it joins the prefix and what stood beside it is dropped: going back is dropping
nodes. Which rows of KV belong to whom is kept here as plain numbers. Sans I/O, without tensors.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from services.edge.chain import Chain
from services.edge.chances import Chances
from services.edge.draft_tree import Decided, Node, Step
from shared.decoding.sampling import PrefixState, Ranking
from shared.errors import CloudLost
from shared.protocol.digest import extend, extend_all
from shared.protocol.messages import HiddenBlock, Opening, Report


class Drafts(Chain):
    """Prefix and tree of one session; `tokens` are decided, `states` those of them that were run.

    Args:
        prompt: its ids, decided from the start.
        prefix: fold over the prompt.
        chances: what each candidate's lead has meant so far, by the exit that ranked it; learns
            with every token.
    """

    def __init__(
        self,
        session: str,
        opening: Opening,
        *,
        hidden: int,
        vocab: int,
        prompt: Sequence[int],
        prefix: PrefixState,
        chances: Mapping[int, Chances],
    ) -> None:
        super().__init__(session, opening, hidden=hidden, vocab=vocab)
        self.chances = chances
        self.drafted = self.accepted = 0
        self._path: deque[Node] = deque()  # decided, not run yet
        self._base = 0  # rows of KV that are decided, as of the last step
        self._order: list[Node] = []  # whose the rows from there on are
        for token in prompt:
            self.extend((token,), None)
            node = Node(token, self.end - 1, self.digests[-1], None, None, decided=True)
            self._path.append(node)
        self.root = node
        self.root.prefix = prefix

    @property
    def travels(self) -> bool:
        """Whether states travel (else ids alone, and the cloud runs every layer)."""
        return self.opening.split > 0

    @property
    def live(self) -> Iterator[tuple[Node, float]]:
        """The root and what stands on it, parents first, each with its chance to be decided."""
        waiting = [(self.root, 1.0)]
        for node, chance in waiting:
            yield node, chance
            waiting += [(child, chance * child.chance) for child in node.children.values()]

    def decide(self, tokens: Sequence[int]) -> list[Decided]:
        """Move along `tokens`, which follow the decided ones."""
        decided = []
        for token in tokens:
            root = self.root
            self._learn(root, token)
            child = root.children.get(token)
            decided.append(Decided(token, child is not None, child.chance if child else None))
            self.accepted += child is not None
            self._move(child or self._grow(root, token, 1.0))
        self._absorb()
        return decided

    def stand_in(self, token: int) -> Decided:
        """Decide a token without the cloud, which has to be told."""
        root, sent = self.root, self.sent
        self._move(root.children.get(token) or self._grow(root, token, 1.0))
        self._absorb()
        self.sent = min(self.sent, sent)
        return Decided(token, drafted=False, chance=None)

    def apply(self, report: Report) -> list[Decided]:
        """Take in a report; returns the tokens it decides that were not known.

        Raises:
            CloudLost: it speaks of another prefix than this one.
        """
        fresh = report.through - self.end
        if fresh <= 0:
            return []
        if fresh > len(report.tokens):
            raise CloudLost("the cloud's report leaves out tokens", reason="malformed")
        tokens = report.tokens[-fresh:]
        if max(tokens) >= self._vocab or report.through > self.opening.max_positions:
            raise CloudLost("the cloud decided on no token of this model", reason="malformed")
        if extend_all(self.digests[-1], tokens)[-1] != report.digest:
            raise CloudLost("the cloud decided on another prefix than this one", reason="diverged")
        return self.decide(tokens)

    def next_step(self, *, width: int, floor: float, room: int) -> Step | None:
        """Choose what to run next: what is decided and was not run, else the `width` likeliest
        candidates whose chance is at least `floor`, as far as there is `room`.
        """
        nodes = [node for node in self._path if node.slot is None]
        if not nodes:
            nodes = self._best(width, floor, room)
            self.drafted += len(nodes)
        if not nodes:
            return None
        base = self._base
        alive = {id(node) for node, _ in self.live}
        kept = [node for node in self._order if node.decided or id(node) in alive]
        keep = [node.slot for node in kept if node.slot is not None]
        self._base += sum(node.decided for node in kept)
        self._order = [*(node for node in kept if not node.decided), *nodes]
        for place, node in enumerate(self._order):
            node.slot = self._base + place
        places = {id(node): place for place, node in enumerate(self._order)}
        parents = [
            place - 1 if node.decided else places.get(id(node.parent), -1)
            for place, node in enumerate(self._order)
        ]
        return Step(nodes, base, keep, self._base, parents)

    def ran(self, step: Step, rankings: Sequence[Ranking | None], exits: Sequence[int]) -> None:
        """Take in what may follow each of a step's rows, and which exit says so; the next step can
        be chosen.
        """
        for node, ranking, layer in zip(step.nodes, rankings, exits, strict=True):
            node.ranking, node.exit = ranking, layer

    def coded(self, step: Step, states: HiddenBlock | None) -> None:
        """Take in the coded states of a step that ran (none where none travel): it can be sent."""
        for row, node in enumerate(step.nodes):
            node.coded = None if states is None else (states, row)
            node.ready = True
        self._absorb()

    def dropped(self, step: Step) -> None:
        """Take back a step that did not run to its end."""
        for node in step.nodes:
            node.slot = None
            self._order.remove(node)
            if not node.decided and node.parent is not None:
                node.parent.children.pop(node.token, None)
                self.drafted -= 1

    def matters(self, step: Step) -> bool:
        """Whether any row of a step is decided, or may still be."""
        alive = {id(node) for node, _ in self.live}
        return any(node.decided or id(node) in alive for node in step.nodes)

    def unsent(self, least: float = 0.0) -> list[Node]:
        """Live drafts that can be sent and were not, parents first: those on the likeliest path,
        and those whose chance to be decided is at least `least`.
        """
        path = {id(node) for node in self.path()} if least > 0 else set()
        return [
            node
            for node, chance in self.live
            if node.ready
            and not node.sent
            and not node.decided
            and (chance >= least or id(node) in path)
        ]

    def running(self) -> list[Node]:
        """Live drafts that will be ready to be sent."""
        return [
            node
            for node, _ in self.live
            if node.slot is not None and not node.ready and not node.decided
        ]

    def unsend(self, start: int) -> None:
        """Send again everything from position `start` on."""
        super().unsend(start)
        for node, _ in self.live:
            if node.position >= start:
                node.sent = node.asked = False

    def move(self, revision: int | None = None) -> None:
        """As `Chain.move`; drafts, and the state they stand on, were the last replica's alone."""
        super().move(revision)
        self.unsend(self.end - 1)

    def path(self) -> Iterator[Node]:
        """The likeliest drafts that can be sent, one on the other, from the root on."""
        node: Node | None = self.root
        while node is not None and node.ready:
            yield node
            following = (child for child in node.children.values() if child.ready)
            node = max(following, key=lambda child: child.chance, default=None)

    def doubt(self) -> tuple[float, int]:
        """Along the likeliest path: the chance that what no pass was asked for is all right, what
        comes next included, and how many nodes that is.
        """
        chance, count = 1.0, 0
        for node in self.path():
            if not node.asked:
                count += 1
                if node.ranking is not None:
                    chance *= self._shares(node, node.ranking)[0]
        return chance, count

    def lead_for(self, share: float) -> float:
        """The lead from which the lowest exit's first candidates are right more often than that."""
        return self.chances[min(self.chances)].lead_for(share)

    def _shares(self, node: Node, ranking: Ranking) -> Sequence[float]:
        return self.chances[node.exit].of(ranking.lead)

    def _learn(self, node: Node, token: int) -> None:
        if node.ranking is not None:
            known = node.ranking.tokens
            rank = known.index(token) if token in known else None
            self.chances[node.exit].learn(node.ranking.lead, rank)

    def _move(self, child: Node) -> None:
        """Make `child` the root; what stood beside it is dropped."""
        self.root.children = {}
        child.parent = None
        child.decided = True
        self.root = child
        self.extend((child.token,), None)
        self._path.append(child)
        if child.sent and self.sent == child.position:
            self.sent = self.end
        elif not self.travels:
            self.sent = self.end  # the cloud decided it, and needs nothing of it

    def _grow(self, parent: Node, token: int, chance: float) -> Node:
        prefix = parent.prefix.advance(token) if parent.prefix is not None else None
        digest = extend(parent.digest, token)
        node = Node(token, parent.position + 1, digest, parent, prefix, chance)
        parent.children[token] = node
        return node

    def _absorb(self) -> None:
        """Log the states of decided nodes that have run, in order."""
        while self._path and self._path[0].ready:
            node = self._path.popleft()
            if node.coded is not None:
                self.states.append_row(*node.coded)
                node.coded = None

    def _best(self, width: int, floor: float, room: int) -> list[Node]:
        """The candidates most likely to be decided; none that ends the text or would be of no use
        to the cloud.
        """
        last = self.opening.max_positions - 2
        found: list[tuple[float, Node, int, float]] = []
        count = -1
        for node, chance in self.live:
            count += 1
            if node.ranking is None or node.position >= last:
                continue
            local = self._shares(node, node.ranking)
            for token, share in zip(node.ranking.tokens, local, strict=False):
                if token not in node.children and token not in self.opening.sampling.eos_ids:
                    found.append((chance * share, node, token, share))
        found = [each for each in found if each[0] >= floor]
        found.sort(key=lambda each: -each[0])
        most = max(0, min(width, room - count))
        return [self._grow(node, token, share) for _, node, token, share in found[:most]]
