"""Who stands on whom among the rows of a tree, from each row's parent to what attention needs.

Pure bookkeeping, in rows counted from the tree's base.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Lineage:
    """Per row its depth (0 for a row that stands on the base) and, `visible` [R, R] bool, the rows
    it sees: its ancestors and itself.
    """

    depths: tuple[int, ...]
    visible: Tensor

    @classmethod
    def of(cls, parents: Sequence[int]) -> "Lineage":
        """Of rows whose parents, given by row, come before them; -1 is the base.

        Raises:
            ValueError: a row comes before its parent.
        """
        depths: list[int] = []
        visible = torch.eye(len(parents), dtype=torch.bool)
        for row, parent in enumerate(parents):
            if not -1 <= parent < row:
                raise ValueError(f"row {row} stands on row {parent}")
            depths.append(0 if parent < 0 else depths[parent] + 1)
            if parent >= 0:
                visible[row] |= visible[parent]
        return cls(tuple(depths), visible)


def is_line(parents: Sequence[int]) -> bool:
    """Whether every row stands on the one before it, and the first on the base."""
    return all(parent == row - 1 for row, parent in enumerate(parents))
