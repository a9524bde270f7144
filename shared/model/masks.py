"""Which cached keys the rows of one session see: those of a line, or those of a tree of drafts.

Pure arithmetic over slots and positions; knows neither caches nor scores.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tree:
    """Cached rows that are not one line: those at slots >= `base` are nodes of a tree.

    Below `base` slots are positions, and every row sees all of them (as far as a layer's window
    reaches). From `base` on, `positions` holds each slot's place in the sequence, and `visible`
    [T, slots from `base` on] bool, best on the CPU, says which of these slots each row run now
    sees: its ancestors and itself. Slots of earlier forwards may be among them.

    After a line of 7 rows, a token and two drafts for what follows it, run in one forward:
    Tree(7, (7, 8, 8), [[1, 0, 0], [1, 1, 0], [1, 0, 1]]). A draft to follow the last of them, run
    in the next forward, has Tree(7, (7, 8, 8, 9), [[1, 0, 1, 1]]).
    """

    base: int
    positions: tuple[int, ...]
    visible: Tensor

    def check(self, position: int, rows: int) -> None:
        """Refuse a tree that does not fit `rows` rows at slot `position` and the following.

        Raises:
            ValueError: naming what does not fit.
        """
        if not 0 <= self.base <= position:
            raise ValueError(f"a tree from slot {self.base} on with rows from slot {position} on")
        slots = position + rows - self.base
        if len(self.positions) != slots:
            raise ValueError(f"{len(self.positions)} positions for {slots} slots of a tree")
        if min(self.positions) < 0:
            raise ValueError(f"position {min(self.positions)} in a tree is negative")
        if self.visible.dtype != torch.bool or self.visible.shape != (rows, slots):
            found = f"{self.visible.dtype} {list(self.visible.shape)}"
            raise ValueError(f"visible slots as {found}, not torch.bool {[rows, slots]}")
        if not bool(self.visible.diagonal(position - self.base).all()):
            raise ValueError("a row of a tree does not see its own slot")


@dataclass(slots=True)
class Sight:
    """What the rows at slots [position, end) of one session see, each at its own layer's window."""

    position: int
    end: int
    tree: Tree | None
    _known: dict[int | None, tuple[int, Tensor | None]] = field(default_factory=dict)

    def through(self, window: int | None, like: Tensor) -> tuple[int, Tensor | None]:
        """The lowest slot `begin` that any row sees, and what to add to the scores
        [T, end - begin] of the keys from there on: 0 or -inf, on the device and in the dtype of
        `like`; None where every row sees every key.

        A row sees `window` positions, itself included (None: all). Computed once per window, for
        all layers of a step.
        """
        known = self._known.get(window)
        if known is None:
            known = self._line(window, like) if self.tree is None else self._tree(window, like)
            self._known[window] = known
        return known

    def _line(self, window: int | None, like: Tensor) -> tuple[int, Tensor | None]:
        begin = 0 if window is None else max(0, self.position + 1 - window)
        if self.end - self.position == 1:
            return begin, None  # `begin` already leaves out what a single row does not see
        keys = torch.arange(begin, self.end, device=like.device)
        queries = torch.arange(self.position, self.end, device=like.device).unsqueeze(-1)
        unseen = keys > queries
        if window is not None:
            unseen |= keys <= queries - window
        return begin, _bias(unseen, like)

    def _tree(self, window: int | None, like: Tensor) -> tuple[int, Tensor | None]:
        assert self.tree is not None
        base, rows = self.tree.base, self.end - self.position
        positions = self.tree.positions[-rows:]
        begin = 0 if window is None else min(base, max(0, min(positions) + 1 - window))
        visible = self.tree.visible.cpu()
        unseen = torch.cat((visible.new_zeros(rows, base - begin), ~visible), dim=1)
        if window is not None:
            keys = torch.tensor([*range(begin, base), *self.tree.positions])
            unseen |= keys <= torch.tensor(positions).unsqueeze(-1) - window
        skipped = int((~unseen).any(dim=0).int().argmax())  # each row sees its own slot
        unseen = unseen[:, skipped:]
        return begin + skipped, _bias(unseen.to(like.device), like) if bool(unseen.any()) else None


def _bias(unseen: Tensor, like: Tensor) -> Tensor:
    return like.new_zeros(unseen.shape).masked_fill_(unseen, -torch.inf)
