"""What the edge's engine holds of one session, and its forward, in which nobody's want of memory
fails a neighbour.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shared.errors import Abandoned, OutOfMemory
from shared.model import KVCache, Segment, SpanModel
from shared.runtime.work import Claim, Failed


@dataclass(slots=True)
class EdgeState:
    """KV of [0, e), the states [T, H] of the last rows, which have not yet gone beyond the split,
    and on whose behalf they are run.
    """

    cache: KVCache
    behind: list[Tensor] = field(default_factory=list)
    claim: Claim = field(default_factory=Claim)

    @property
    def left_behind(self) -> int:
        """Rows that have not gone beyond the split."""
        return sum(map(len, self.behind))

    def truncate(self, length: int) -> None:
        """Drop every position >= `length`: its KV, and its state where that was left behind."""
        dropped = max(0, self.cache.length(0) - length)
        if self.behind and dropped:
            rows = torch.cat(self.behind)
            self._leave(rows[: max(0, len(rows) - dropped)])
        self.cache.truncate(length)

    def keep(self, base: int, slots: Sequence[int]) -> None:
        """Of the rows at slots >= `base` keep those at `slots`; see `KVCache.keep`."""
        if self.behind:
            rows = torch.cat(self.behind)
            first = self.cache.length(0) - len(rows)
            kept = [slot - first for slot in (*range(first, base), *slots) if slot >= first]
            self._leave(rows[kept])
        self.cache.keep(base, slots)

    def _leave(self, rows: Tensor) -> None:
        self.behind[:] = [rows] if len(rows) else []


def forward(model: SpanModel, segments: Sequence[Segment]) -> "list[Tensor | Failed]":
    """Run all segments in one step; where the KV budget has no room for all, one by one, so that
    only those without room go without. Segments nobody wants any more have `Abandoned`.
    """
    if not segments:
        return []
    try:
        return list(model.forward(segments))
    except Abandoned as end:
        return [Failed(end)] * len(segments)
    except OutOfMemory as error:
        if len(segments) == 1:
            return [Failed(error)]
        return [one for segment in segments for one in forward(model, [segment])]
