"""Room for many sessions' keys and values, out of which a session's rows never have to move.

On the CPU a session gets a range of addresses long enough for the longest session there can be, and
the operating system gives it memory page by page as rows are written: what vAttention (Prabhu et
al., arXiv 2405.04437) does on a GPU, by the CPU's own page tables. Rows of one layer and head lie
one after another however a session grows, so attention reads them in place; sessions in ranges side
by side are one tensor, so it reads several in one call. Elsewhere buffers grow and are copied.
Knows rows and bytes; the budget is `cache`'s affair.
"""

import heapq
import math
import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from shared.errors import OutOfMemory

KeysValues: TypeAlias = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

# Rows beyond the model's positions: drafts of one tree may stand at the same position.
SPARE_ROWS = 1024
# Ranges mapped at once; those of one mapping can be read together.
SLAB_SLOTS = 64
# Views of a slab's rows kept for the steps to come.
KEPT_VIEWS = 256
# A session's memory is counted in pages of about so many rows of a layer.
_PAGE_ROWS = 64
# Linux has it on every architecture; Python names it from 3.13 on.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the KV of a session looks like: rows of keys and values [kv_heads, D] at each of
    `layers` layers, for up to `positions` positions.
    """

    layers: int
    kv_heads: int
    head_dim: int
    positions: int
    dtype: torch.dtype
    device: torch.device

    @property
    def row_bytes(self) -> int:
        """Bytes of one position at one layer."""
        return 2 * self.kv_heads * self._head_bytes

    @property
    def page_rows(self) -> int:
        """Rows of a page: every head's part of it is whole pages of the operating system, so that
        what is counted is what is held.
        """
        whole = mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, self._head_bytes)
        return -(-_PAGE_ROWS // whole) * whole

    @property
    def capacity(self) -> int:
        """Rows a session may come to at a layer, in whole pages."""
        return self.whole_pages(self.positions + SPARE_ROWS)

    @property
    def slot_shape(self) -> tuple[int, int, int, int, int]:
        """[layers, 2, kv_heads, capacity, D]."""
        return (self.layers, 2, self.kv_heads, self.capacity, self.head_dim)

    @property
    def slot_bytes(self) -> int:
        """Bytes of address space of a session."""
        return math.prod(self.slot_shape) * self.dtype.itemsize

    @property
    def _head_bytes(self) -> int:
        return self.head_dim * self.dtype.itemsize

    def whole_pages(self, rows: int) -> int:
        """`rows` rounded up to whole pages."""
        return -(-rows // self.page_rows) * self.page_rows


class Room(Protocol):
    """Where one session's rows lie."""

    def grow(self, layer: int, held: int, rows: int) -> None:
        """Make room for `rows` rows at `layer` (counted from 0), of which the first `held` stay.

        Raises:
            OutOfMemory: there is no room for so many.
        """
        ...

    def layer(self, layer: int) -> Tensor:
        """The rows [2, kv_heads, n, D] of a layer, n at least what it has room for."""
        ...

    def release(self) -> None:
        """Give the room back; nothing may read it any more."""
        ...


class Pool:
    """Rooms of one layout. Safe to use from several threads."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._lock = threading.Lock()
        self._slabs: list[Slab] = []
        self._free: list[tuple[int, int]] = []

    def take(self) -> Room:
        """Room for a session, as low among the free ranges as there is: neighbours are read
        together.

        Raises:
            OutOfMemory: there is no address space for more.
        """
        if self.layout.device.type != "cpu":
            return Buffers(self.layout)
        with self._lock:
            if not self._free:
                slab = Slab(self.layout)
                self._free += [(len(self._slabs), n) for n in range(slab.slots)]
                self._slabs.append(slab)
            place = heapq.heappop(self._free)
            slab = self._slabs[place[0]]
            return Slot(slab, place[1], lambda: self._put(place))

    def _put(self, place: tuple[int, int]) -> None:
        with self._lock:
            heapq.heappush(self._free, place)


class Slab:
    """Ranges for several sessions in one mapping, as one tensor `rows`
    [slots, layers, 2, kv_heads, capacity, D]; what was never written holds zeros and no memory.
    """

    def __init__(self, layout: Layout) -> None:
        """Map the addresses: fewer where there are not so many.

        Raises:
            OutOfMemory: not even one session's range can be mapped.
        """
        self.capacity = layout.capacity
        self._slot_bytes = layout.slot_bytes
        self.slots = SLAB_SLOTS
        while True:
            try:
                self._memory = _mapped(self.slots * self._slot_bytes)
                break
            except OSError as error:
                self.slots //= 2
                if not self.slots:
                    raise OutOfMemory(
                        f"the system gives no address space of {self._slot_bytes} bytes for a "
                        "session's KV (is vm.overcommit_memory 2, or a ulimit -v set?)"
                    ) from error
        with torch.inference_mode(mode=False):  # of a forward's tensors nobody else may write
            flat = torch.frombuffer(self._memory, dtype=layout.dtype)
            self.rows = flat.view(self.slots, *layout.slot_shape)
            self.layers = self.rows.unbind(1)
        self._read: OrderedDict[tuple[int, int, range, int], KeysValues] = OrderedDict()

    def read(self, first: int, sessions: int, layers: range, length: int) -> KeysValues:
        """The first `length` rows of slots side by side: keys and values, for each layer
        [sessions, kv_heads, length, D]. The same are asked for from step to step, so the last ones
        are kept.
        """
        place = (first, sessions, layers, length)
        found = self._read.get(place)
        if found is not None:
            self._read.move_to_end(place)
        else:
            slots = slice(first, first + sessions)
            rows = self.rows[slots, layers.start : layers.stop, :, :, :length]
            keys, values = rows.unbind(2)
            found = self._read[place] = (keys.unbind(1), values.unbind(1))
            if len(self._read) > KEPT_VIEWS:
                self._read.popitem(last=False)
        return found

    def clear(self, number: int) -> None:
        """Give a range's memory back to the system; it reads as zeros again."""
        self._memory.madvise(mmap.MADV_DONTNEED, number * self._slot_bytes, self._slot_bytes)


class Slot:
    """One session's range of a slab."""

    def __init__(self, slab: Slab, number: int, give_back: Callable[[], None]) -> None:
        self.slab = slab
        self.number = number
        self._give_back = give_back

    def grow(self, layer: int, held: int, rows: int) -> None:
        """See `Room.grow`: there is address space already."""
        if rows > self.slab.capacity:
            raise OutOfMemory(f"{rows} rows of one session, of {self.slab.capacity} at most")

    def layer(self, layer: int) -> Tensor:
        """See `Room.layer`."""
        return self.slab.layers[layer][self.number]

    def release(self) -> None:
        """See `Room.release`."""
        self.slab.clear(self.number)
        self._give_back()


class Buffers:
    """Room that grows by copying, where there are no page tables to lean on."""

    def __init__(self, layout: Layout) -> None:
        none = torch.empty(
            2, layout.kv_heads, 0, layout.head_dim, dtype=layout.dtype, device=layout.device
        )
        self._buffers = [none] * layout.layers

    def grow(self, layer: int, held: int, rows: int) -> None:
        """See `Room.grow`."""
        old = self._buffers[layer]
        try:
            new = old.new_empty(2, old.shape[1], rows, old.shape[3])
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            raise OutOfMemory(f"the device has no room for {rows} rows of KV") from error
        new[:, :, :held] = old[:, :, :held]
        self._buffers[layer] = new

    def layer(self, layer: int) -> Tensor:
        """See `Room.layer`."""
        return self._buffers[layer]

    def release(self) -> None:
        """See `Room.release`."""
        self._buffers = [buffer[:, :, :0].clone() for buffer in self._buffers]


def _mapped(count: int) -> mmap.mmap:
    """`count` bytes of zeros that take memory as they are written, in small pages."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    memory = mmap.mmap(-1, count, flags=flags)
    # A huge page holds many heads' rows: one row written would take two megabytes.
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
