"""The rows of many sessions in one step: what may be asked, and at which layers who is active.

Pure bookkeeping over layer numbers and positions; computes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor

from shared.model.attention import Rows, Run
from shared.model.cache import KVCache


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of one session in one step.

    They enter at layer `start` as token `ids` [T] int64 (start 0) or as hidden `states` [T, H]
    (start > 0), and leave before layer `stop`. The first stands at `position`, which is the cache's
    length at every layer of [start, stop).
    """

    cache: KVCache
    start: int
    stop: int
    position: int
    ids: Tensor | None
    states: Tensor | None

    @property
    def inputs(self) -> Tensor:
        """Whichever of `ids` and `states` there is; ValueError unless it is exactly one."""
        if (self.ids is None) == (self.states is None):
            raise ValueError("a segment enters as ids or as states")
        given = self.ids if self.ids is not None else self.states
        assert given is not None
        return given

    @property
    def rows(self) -> int:
        """T."""
        return len(self.inputs)

    @property
    def end(self) -> int:
        """The position after the last row's."""
        return self.position + self.rows

    @property
    def layers(self) -> range:
        """The layers it runs through."""
        return range(self.start, self.stop)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Layers [first, last) at which the same segments (`active`, indices) are active."""

    first: int
    last: int
    active: tuple[int, ...]


def stretches(segments: Sequence[Segment]) -> Iterator[Stretch]:
    """Cut the layers where a segment enters or leaves; rising, without those where none runs.

    Segments [0, 4) and [2, 6) make [0, 2) with the first, [2, 4) with both, [4, 6) with the second.
    """
    cuts = sorted({segment.start for segment in segments} | {segment.stop for segment in segments})
    for first, last in pairwise(cuts):
        active = [n for n, s in enumerate(segments) if s.start <= first and last <= s.stop]
        if active:
            yield Stretch(first, last, tuple(active))


def rows_of(segments: Sequence[Segment]) -> Rows:
    """Lay the segments' rows one after another."""
    ends = [0, *accumulate(segment.rows for segment in segments)]
    return Rows(
        tuple(
            Run(segment.cache, first, last, segment.position)
            for segment, (first, last) in zip(segments, pairwise(ends), strict=True)
        )
    )


def check(segment: Segment, *, hidden: int, max_positions: int) -> None:
    """Refuse what would write wrong rows.

    Raises:
        ValueError: inputs of the wrong kind or shape, no rows, a closed cache, or rows that do not
            follow the cache's.
    """
    inputs = segment.inputs
    if (segment.ids is not None) != (segment.start == 0):
        raise ValueError("ids enter at layer 0, states above it")
    if inputs.dim() != (1 if segment.start == 0 else 2) or not len(inputs):
        raise ValueError(f"no rows in inputs of shape {tuple(inputs.shape)}")
    if segment.states is not None and inputs.shape[1] != hidden:
        raise ValueError(f"states of width {inputs.shape[1]}; this model's is {hidden}")
    if segment.cache.closed:
        raise ValueError("the cache is closed")
    for layer in segment.layers:
        if segment.cache.length(layer) != segment.position:
            held = segment.cache.length(layer)
            raise ValueError(f"rows from {segment.position} on where layer {layer} holds {held}")
    if segment.end > max_positions:
        raise ValueError(f"position {segment.end - 1} is beyond the model's {max_positions}")
