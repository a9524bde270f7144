"""Keys and values of one session, layer by layer, and the byte budget its model's caches share.

Knows rows and bytes; where they lie is `pool`'s affair, what is written into them `attention`'s.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from shared.errors import OutOfMemory
from shared.model.pool import Pool, Room


class Ledger:
    """Counts the KV bytes of all caches of one model. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.held = 0
        self.limit: int | None = None

    def take(self, count: int) -> None:
        """Book `count` bytes.

        Raises:
            OutOfMemory: they do not fit the limit; nothing is booked.
        """
        with self._lock:
            if count > 0 and self.limit is not None and self.held + count > self.limit:
                raise OutOfMemory(
                    f"{count} more bytes of KV do not fit: {self.held} of {self.limit} are held"
                )
            self.held += count

    def give(self, count: int) -> None:
        """Book `count` bytes back."""
        with self._lock:
            self.held -= count


class KVCache:
    """Rows [0, length(layer)) of keys and values for every layer of a span.

    Each layer's lie in one tensor [2, kv_heads, capacity, D] in the model's dtype, in whole pages
    of the pool. Closing gives its bytes back to the budget; a closed cache takes no rows. A cache
    is a context manager that closes itself.
    """

    def __init__(self, layers: range, pool: Pool, ledger: Ledger) -> None:
        self.ledger = ledger
        self.closed = False
        self._pool = pool
        self._room: Room | None = None
        self._start = layers.start
        self._lengths = [0] * len(layers)
        self._held = [0] * len(layers)

    def length(self, layer: int) -> int:
        """Rows held at `layer`."""
        return self._lengths[layer - self._start]

    @property
    def room(self) -> Room | None:
        """Where its rows lie, once there are any."""
        return self._room

    def place(self, layer: int) -> int:
        """A layer of the model as the room counts it."""
        return layer - self._start

    def places(self, layers: range) -> range:
        """Layers of the model as the room counts them."""
        return range(self.place(layers.start), self.place(layers.stop))

    def buffer(self, layer: int) -> Tensor:
        """The rows [2, kv_heads, n, D] of `layer`, `growth` having been booked and made; those from
        length(layer) on are free.
        """
        if self._room is None:
            raise ValueError("the cache has no room yet")
        return self._room.layer(self.place(layer))

    @property
    def nbytes(self) -> int:
        """Bytes held, free rows of its pages included."""
        return sum(self._held) * self._pool.layout.row_bytes

    def growth(self, layers: Iterable[int], rows: int) -> int:
        """Bytes that holding `rows` rows at each of `layers` would add."""
        return sum(self._missing(layer, rows) for layer in layers) * self._pool.layout.row_bytes

    def grow(self, layers: Iterable[int], rows: int) -> None:
        """Make room for `rows` rows at each of `layers`, which the caller has booked.

        Raises:
            OutOfMemory: there is none; some of the layers may have theirs.
        """
        if self._room is None:
            self._room = self._pool.take()
        for layer in layers:
            missing = self._missing(layer, rows)
            if missing:
                index = layer - self._start
                self._room.grow(index, self._lengths[index], self._held[index] + missing)
                self._held[index] += missing

    def extend(self, layers: Iterable[int], rows: int) -> None:
        """Declare the first `rows` rows of `layers` written."""
        for layer in layers:
            self._lengths[layer - self._start] = rows

    def borrow(self, loan: "Loan", layers: range) -> bool:
        """Copy the lender's rows at `layers`, where this cache holds none; false if the lender has
        them no more, or there is no room. Called where no step runs.
        """
        lender = loan.lender
        if any(lender.length(layer) < loan.rows for layer in layers):  # closed, it holds none
            return False
        try:
            reserve(self.ledger, [(self, layers, loan.rows)])
        except OutOfMemory:
            return False
        with torch.inference_mode():
            for layer in layers:
                rows = self.buffer(layer)[:, :, : loan.rows]
                rows.copy_(lender.buffer(layer)[:, :, : loan.rows])
        self.extend(layers, loan.rows)
        return True

    def truncate(self, length: int) -> None:
        """Drop every layer's rows at positions >= `length`; their room is kept for later rows."""
        self._lengths = [min(held, length) for held in self._lengths]

    def keep(self, base: int, slots: Sequence[int]) -> None:
        """Of the rows at slots >= `base` keep only those at `slots`, rising, moved down to `base`
        and the following, at every layer that holds any of them; those below stay.

        keep(7, [8, 10]) of 12 rows leaves 9: the eighth is what was at slot 8, the ninth at 10.
        Rows keep the positions they were run at, so a path of a `Tree` becomes a line of that
        length if its first stands at `base`. A layer that holds fewer rows than another keeps those
        of the slots that it has.

        Raises:
            ValueError: the slots do not rise from `base` on, or no layer has the last. Nothing was
                moved.
        """
        if any(later <= slot for slot, later in pairwise((base - 1, *slots))):
            raise ValueError(f"slots {list(slots)} do not rise from {base} on")
        if slots and slots[-1] >= max(self._lengths):
            raise ValueError(f"slot {slots[-1]} is kept where {max(self._lengths)} rows are held")
        staying = sum(slot == base + n for n, slot in enumerate(slots))
        # Buffers allocated by a forward are inference tensors, which nothing else may change.
        with torch.inference_mode():
            for index, held in enumerate(self._lengths):
                if held <= base:
                    continue
                had = bisect_left(slots, held)
                if staying < had:
                    buffer = self.buffer(index + self._start)
                    moving = torch.tensor(slots[staying:had], device=buffer.device)
                    buffer[:, :, base + staying : base + had] = buffer.index_select(2, moving)
                self._lengths[index] = base + had

    def close(self) -> None:
        """Drop every row and give the bytes back; closing twice is no fault."""
        if not self.closed:
            self.closed = True
            self.ledger.give(self.nbytes)
            self._lengths = [0] * len(self._lengths)
            self._held = [0] * len(self._held)
            if self._room is not None:
                self._room.release()
                self._room = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _missing(self, layer: int, rows: int) -> int:
        held = self._held[layer - self._start]
        return self._pool.layout.whole_pages(rows) - held if rows > held else 0


@dataclass(frozen=True, slots=True)
class Loan:
    """The first `rows` rows of `lender` are those another session begins with."""

    lender: KVCache
    rows: int


def reserve(ledger: Ledger, wants: Iterable[tuple[KVCache, range, int]]) -> None:
    """Make room for each (cache, layers, rows), all or nothing.

    Raises:
        OutOfMemory: the budget, or the device, has not that much; the bytes booked are exactly
            those held.
    """
    wants = list(wants)
    total = sum(cache.growth(layers, rows) for cache, layers, rows in wants)
    ledger.take(total)
    before = sum(cache.nbytes for cache, _, _ in wants)
    try:
        for cache, layers, rows in wants:
            cache.grow(layers, rows)
    except OutOfMemory:
        ledger.give(total - (sum(cache.nbytes for cache, _, _ in wants) - before))
        raise
