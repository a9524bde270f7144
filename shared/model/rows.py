"""Where the rows of a step lie in their sessions' caches: what is written where, and which of them
can be attended in one call.

Rows of a prompt or of drafts are attended session by session. Single rows, of which a step of many
sessions consists, are read together where their caches lie side by side and are about as long: half
of what a short call costs is the call. Computes nothing.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from shared.model.cache import KVCache
from shared.model.masks import Sight
from shared.model.pool import Slab, Slot

# Keys of a single row are read up to the next of these lengths, or multiple of the last, and what
# is too much is masked. Sessions about as long can so be read in one call; and as the length read
# is the session's own affair, what comes out does not depend on who else is in the step. The rows
# read beyond its last are its own dropped ones, or zeros.
_LENGTHS = (64, 128, 256)
# From so many on, one indexed write of several sessions' rows is quicker than a copy of each.
_MANY = 4


@dataclass(frozen=True, slots=True)
class Run:
    """Rows [first, last) of a step: those of one session, at `sight.position` and the following
    slots of its cache.
    """

    cache: KVCache
    first: int
    last: int
    sight: Sight

    @property
    def slot(self) -> Slot | None:
        """The range of a slab its cache has, if it is that kind of room."""
        return self.cache.room if isinstance(self.cache.room, Slot) else None

    @property
    def single(self) -> bool:
        """Whether it is one row that follows a line."""
        return self.last - self.first == 1 and self.sight.tree is None

    def read_to(self, window: int | None) -> int | None:
        """For a single row, how many keys are read from the first on, unless it sees a window that
        no longer starts there."""
        end = self.sight.end
        if not self.single or self.slot is None or (window is not None and end > window):
            return None
        step = _LENGTHS[-1]
        length = next((n for n in _LENGTHS if end <= n), -(-end // step) * step)
        return min(length, self.slot.slab.capacity)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows [first, last) of a step that are attended in one call: single rows of S sessions, or all
    rows of one (S = 1). `keys` and `values` are [S, kv_heads, n, D] for each layer, `bias` is what
    to add to the scores [S or 1, 1, rows, n] (None: nothing).
    """

    first: int
    last: int
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    bias: Tensor | None


@dataclass(slots=True)
class Rows:
    """The rows of one step at `layers`, where the same sessions are active. Their caches have room,
    and none of it anew while these are in use.
    """

    runs: Sequence[Run]
    layers: range
    _targets: "Sequence[_Slice | _Scatter] | None" = None
    _parts: dict[int | None, Sequence[Part]] = field(default_factory=dict)

    def write(self, layer: int, fresh: Tensor) -> None:
        """Append keys and values [2, kv_heads, T, D] of a layer to each session's cache."""
        if self._targets is None:
            self._targets = [each for runs in _by_slab(self.runs) for each in _into(runs)]
        for target in self._targets:
            target.put(layer, fresh)

    def parts(self, window: int | None, like: Tensor) -> Sequence[Part]:
        """How the rows are attended at layers of a window (None: every position), worked out once;
        masks on the device and in the dtype of `like`.
        """
        if window not in self._parts:
            self._parts[window] = [
                self._single_rows(runs, length, like)
                if (length := runs[0].read_to(window)) is not None
                else self._all_rows(runs[0], window, like)
                for runs in _together(self.runs, window)
            ]
        return self._parts[window]

    def at(self, layer: int) -> int:
        """The place of a layer in what a part has for each."""
        return layer - self.layers.start

    def _single_rows(self, runs: Sequence[Run], length: int, like: Tensor) -> Part:
        first, slot = runs[0], runs[0].slot
        assert slot is not None
        layers = first.cache.places(self.layers)
        keys, values = slot.slab.read(slot.number, len(runs), layers, length)
        bias = like.new_zeros(len(runs), 1, 1, length)
        for row, run in zip(bias.unbind(0), runs, strict=True):
            row[:, :, run.sight.end :] = -torch.inf
        return Part(first.first, runs[-1].last, keys, values, bias)

    def _all_rows(self, run: Run, window: int | None, like: Tensor) -> Part:
        begin, bias = run.sight.through(window, like)
        held = [run.cache.buffer(layer)[:, :, begin : run.sight.end] for layer in self.layers]
        return Part(run.first, run.last, [h[:1] for h in held], [h[1:] for h in held], bias)


@dataclass(frozen=True, slots=True)
class _Slice:
    """One session's rows [first, last) of the step go to [begin, end) of its cache."""

    run: Run

    def put(self, layer: int, fresh: Tensor) -> None:
        run = self.run
        held = run.cache.buffer(layer)
        held[:, :, run.sight.position : run.sight.end] = fresh[:, :, run.first : run.last]


@dataclass(frozen=True, slots=True)
class _Scatter:
    """Single rows [first, last) of a step, of several sessions in one slab, go to `positions` of
    the slots `numbers`.
    """

    run: Run
    slab: Slab
    last: int
    numbers: Tensor
    positions: Tensor

    @classmethod
    def of(cls, runs: Sequence[Run], slab: Slab) -> "_Scatter":
        numbers = torch.tensor([run.slot.number for run in runs if run.slot is not None])
        positions = torch.tensor([run.sight.position for run in runs])
        return cls(runs[0], slab, runs[-1].last, numbers, positions)

    def put(self, layer: int, fresh: Tensor) -> None:
        rows = fresh[:, :, self.run.first : self.last].permute(2, 0, 1, 3)
        held = self.slab.layers[self.run.cache.place(layer)]
        held[self.numbers, :, :, self.positions] = rows


def _by_slab(runs: Sequence[Run]) -> Iterator[Sequence[Run]]:
    """Single rows of one slab together, where they follow one another."""
    keys: list[Hashable] = [
        id(run.slot.slab) if run.single and run.slot is not None else ("alone", index)
        for index, run in enumerate(runs)
    ]
    return _cut(runs, keys)


def _into(runs: Sequence[Run]) -> "Iterable[_Slice | _Scatter]":
    slot = runs[0].slot
    if slot is not None and len(runs) >= _MANY:
        return (_Scatter.of(runs, slot.slab),)
    return map(_Slice, runs)


def _together(runs: Sequence[Run], window: int | None) -> Iterator[Sequence[Run]]:
    """Runs that are read in one call."""
    keys: list[Hashable] = []
    for index, run in enumerate(runs):
        length, slot = run.read_to(window), run.slot
        if length is None or slot is None:
            keys.append(("alone", index))
        else:
            # Side by side, all slots' numbers are their runs' places and the same more.
            keys.append((id(slot.slab), slot.number - index, length))
    return _cut(runs, keys)


def _cut(runs: Sequence[Run], keys: Sequence[Hashable]) -> Iterator[Sequence[Run]]:
    """Cut where the key is another."""
    for _, members in groupby(zip(keys, runs, strict=True), key=itemgetter(0)):
        yield [run for _, run in members]
