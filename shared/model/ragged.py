"""The rows of many sessions in one step: what may be asked, and at which layers who is active.

Pure bookkeeping over layer numbers and positions; computes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor

from shared.model.cache import KVCache
from shared.model.masks import Sight, Tree
from shared.model.pool import Slot
from shared.model.rows import Rows, Run


@dataclass(frozen=True, slots=True)
class Tap:
    """Where a segment's states are read and replaced on their way up.

    `take` gets those [T, H] that enter `layer`, on the model's thread, device and dtype, and what
    it returns, [T, H] again, goes on from there. They are its to keep, but not to change. What it
    raises ends the forward, which then leaves every cache as it was.
    """

    layer: int
    take: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of one session in one step.

    They enter at layer `start` as token `ids` [T] int64 (start 0) or as hidden `states` [T, H]
    (start > 0), and leave before layer `stop`. The first stands at `position`, which is the cache's
    length at every layer of [start, stop). With a `tree` that is its slot in the cache, and the
    tree says where in the sequence the rows stand and what they see. A `tap` is at a layer with
    start < layer < stop. `wanted` is asked between layers, from the forward's thread: once it says
    no for all segments, the forward ends.
    """

    cache: KVCache
    start: int
    stop: int
    position: int
    ids: Tensor | None
    states: Tensor | None
    tree: Tree | None = None
    tap: Tap | None = None
    wanted: Callable[[], bool] | None = None

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
        """The slot after the last row's; without a tree, the position."""
        return self.position + self.rows

    @property
    def positions(self) -> Sequence[int]:
        """Where in the sequence each row stands."""
        if self.tree is None:
            return range(self.position, self.end)
        return self.tree.positions[-self.rows :]

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
    """Cut the layers where a segment enters, leaves or is tapped; rising, without those where none
    runs.

    Segments [0, 4) and [2, 6) make [0, 2) with the first, [2, 4) with both, [4, 6) with the second.
    """
    ends = {layer for segment in segments for layer in (segment.start, segment.stop)}
    taps = {segment.tap.layer for segment in segments if segment.tap is not None}
    for first, last in pairwise(sorted(ends | taps)):
        active = [n for n, s in enumerate(segments) if s.start <= first and last <= s.stop]
        if active:
            yield Stretch(first, last, tuple(active))


def unwanted(segments: Sequence[Segment]) -> bool:
    """Whether nobody waits for any of the segments any more."""
    return all(segment.wanted is not None and not segment.wanted() for segment in segments)


def sights_of(segments: Sequence[Segment]) -> list[Sight]:
    """What each segment's rows see, the same at all layers of a step."""
    return [Sight(segment.position, segment.end, segment.tree) for segment in segments]


def rows_of(segments: Sequence[Segment], sights: Sequence[Sight], stretch: Stretch) -> Rows:
    """Lay the segments' rows one after another, for the layers of a stretch."""
    ends = [0, *accumulate(segment.rows for segment in segments)]
    runs = [
        Run(segment.cache, first, last, sight)
        for segment, sight, (first, last) in zip(segments, sights, pairwise(ends), strict=True)
    ]
    return Rows(runs, range(stretch.first, stretch.last))


def side_by_side(segments: Sequence[Segment]) -> list[int]:
    """The segments' indices, single rows first in the order in which their caches lie: what is
    side by side there is read together.
    """

    def place(index: int) -> tuple[bool, int, int]:
        room = segments[index].cache.room
        if not isinstance(room, Slot) or segments[index].rows > 1:
            return (True, 0, index)
        return (False, id(room.slab), room.number)

    return sorted(range(len(segments)), key=place)


def check(segment: Segment, *, hidden: int, max_positions: int) -> None:
    """Refuse what would write wrong rows.

    Raises:
        ValueError: inputs of the wrong kind or shape, no rows, a closed cache, rows that do not
            follow the cache's, a tree that is not these rows', or a tap outside their layers.
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
    last = segment.end - 1
    if segment.tree is not None:
        segment.tree.check(segment.position, segment.rows)
        last = max(segment.tree.positions)
    if last >= max_positions:
        raise ValueError(f"position {last} is beyond the model's {max_positions}")
    if segment.tap is not None and not segment.start < segment.tap.layer < segment.stop:
        span = f"({segment.start}, {segment.stop})"
        raise ValueError(f"a tap at layer {segment.tap.layer}, which is not within {span}")
