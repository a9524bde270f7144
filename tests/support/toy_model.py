"""A model in integers, for testing the protocol without a float's excuse.

The hidden state a token leaves at the split is a digest of the prefix it ends; what the upper
layers put out is a digest over every state below it, in order. So one state lost, doubled,
reordered, or wrongly rolled back changes everything after it. Exits look the right answer up and
err at chosen rates. It stands in for `shared.model.SpanModel` under the real engines.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import cast

import torch
from torch import Tensor

from shared.model import LayerSpan, ModelShape, Segment

VOCABULARY = 12
WIDTH = 8  # a digest of 8 bytes, a byte a value: exact in fp16 and fp32
DEPTH, SPLIT, EDGE_DEPTH = 4, 1, 2
START = bytes(8)
ROW_BYTES = 8


def _hash(*parts: bytes) -> bytes:
    return blake2b(b"".join(parts), digest_size=8).digest()


def lower(prefix: bytes, token: int) -> bytes:
    """The state at the split after `token`, on a prefix whose last state was `prefix`."""
    return _hash(b"lower", prefix, token.to_bytes(4, "little"))


def upper(above: bytes, state: bytes) -> bytes:
    """The output of the upper layers at a position, from the position before and the state
    below.
    """
    return _hash(b"upper", above, state)


def states_of(tokens: Sequence[int]) -> list[tuple[bytes, bytes]]:
    """(state at the split, output of the last layer) of every position, by definition."""
    chain, below, above = [], START, START
    for token in tokens:
        below = lower(below, token)
        above = upper(above, below)
        chain.append((below, above))
    return chain


def full_logits(tokens: Sequence[int]) -> Tensor:
    """The full model's logits [V] after `tokens`."""
    return _certain(states_of(tokens)[-1][1][0] % VOCABULARY)


def full_choice(tokens: Sequence[int]) -> int:
    """The full model's greedy token after `tokens`."""
    return states_of(tokens)[-1][1][0] % VOCABULARY


@dataclass
class ToyCache:
    """Per layer, the digests of the positions run."""

    rows: dict[int, list[bytes]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return ROW_BYTES * sum(map(len, self.rows.values()))

    def length(self, layer: int) -> int:
        return len(self.rows.get(layer, ()))

    def growth(self, layers: Iterable[int], rows: int) -> int:
        return ROW_BYTES * sum(
            max(0, rows - self.length(layer)) for layer in set(layers) & {0, SPLIT}
        )

    def truncate(self, length: int) -> None:
        for kept in self.rows.values():
            del kept[length:]

    def keep(self, base: int, slots: Sequence[int]) -> None:
        assert all(slot < max(map(len, self.rows.values())) for slot in slots)
        for kept in self.rows.values():
            kept[base:] = [kept[slot] for slot in slots if slot < len(kept)]

    def close(self) -> None:
        self.rows.clear()


@dataclass
class ToyModel:
    """`error_percent` maps an exit's layer to how often its answer is wrong; confidences are
    hashes too.
    """

    span: LayerSpan
    error_percent: dict[int, int] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    shape: ModelShape = field(
        default_factory=lambda: ModelShape(
            depth=DEPTH,
            hidden=WIDTH,
            heads=1,
            kv_heads=1,
            head_dim=1,
            vocab=VOCABULARY,
            max_positions=512,
        )
    )
    outputs: dict[bytes, bytes] = field(default_factory=lambda: {START: START})

    def new_cache(self) -> ToyCache:
        return ToyCache()

    def forward(self, segments: Sequence[Segment]) -> list[Tensor]:
        return [self._run(segment) for segment in segments]

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.stack([_certain(_digest(row)[0] % VOCABULARY) for row in hidden])

    def exit_logits(self, layer: int, hidden: Tensor) -> Tensor:
        return torch.stack(
            [
                exit_logits(layer, *self._both(layer, row), self.error_percent[layer])
                for row in hidden
            ]
        )

    def _both(self, layer: int, row: Tensor) -> tuple[bytes, bytes]:
        below = _digest(row)
        return below, self.outputs[below]

    def _run(self, segment: Segment) -> Tensor:
        cache = cast(ToyCache, segment.cache)
        parents = _parents(segment)
        if segment.ids is not None:
            below = self._run_lower(cache, parents, segment.position, segment.ids.tolist())
        else:
            assert segment.states is not None
            below = [_digest(row) for row in segment.states]
        if segment.tap is not None:
            below = [_digest(row) for row in segment.tap.take(_rows(below))]
        if segment.stop <= SPLIT:
            return _rows(below)
        above = self._run_upper(cache, parents, segment.position, below)
        # An edge's [s, e) passes states on: its exit looks the right answer up by them.
        return _rows(above if segment.stop == DEPTH else below)

    def _run_lower(
        self, cache: ToyCache, parents: Sequence[int], position: int, ids: list[int]
    ) -> list[bytes]:
        rows = cache.rows.setdefault(0, [])
        assert len(rows) == position, (len(rows), position)
        for parent, token in zip(parents, ids, strict=True):
            before = rows[parent] if parent >= 0 else START
            rows.append(lower(before, token))
            if before in self.outputs:
                self.outputs[rows[-1]] = upper(self.outputs[before], rows[-1])
        return rows[position:]

    def _run_upper(
        self, cache: ToyCache, parents: Sequence[int], position: int, below: list[bytes]
    ) -> list[bytes]:
        rows = cache.rows.setdefault(SPLIT, [])
        assert len(rows) == position, (len(rows), position)
        for parent, state in zip(parents, below, strict=True):
            rows.append(upper(rows[parent] if parent >= 0 else START, state))
        return rows[position:]


def _parents(segment: Segment) -> list[int]:
    """The slot each row of a segment stands on: the deepest of those it sees but itself."""
    slots = range(segment.position, segment.end)
    tree = segment.tree
    if tree is None:
        return [slot - 1 for slot in slots]
    found = []
    for row, slot in enumerate(slots):
        seen = [
            other
            for other, sees in enumerate(tree.visible[row].tolist())
            if sees and other + tree.base != slot
        ]
        deepest = max(seen, key=lambda other: tree.positions[other], default=None)
        found.append(tree.base - 1 if deepest is None else tree.base + deepest)
        depth = tree.base - 1 if deepest is None else tree.positions[deepest]
        assert tree.positions[slot - tree.base] == depth + 1
    return found


def exit_logits(layer: int, below: bytes, above: bytes, error_percent: int) -> Tensor:
    """What the exit before `layer` says on a prefix: the right token or, at the chosen rate,
    another; sure or not.
    """
    noise = _hash(b"exit", bytes([layer]), below)
    token = above[0] % VOCABULARY
    if noise[0] * 100 < error_percent * 256:
        token = (token + 1 + noise[1] % (VOCABULARY - 1)) % VOCABULARY
    logits = torch.zeros(VOCABULARY)
    logits[token] = 1 + noise[2] / 32
    return logits


def _certain(token: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(token), VOCABULARY).float() * 8


def _digest(row: Tensor) -> bytes:
    return bytes(int(value) for value in row.tolist())


def _rows(digests: Sequence[bytes]) -> Tensor:
    return torch.tensor([list(d) for d in digests], dtype=torch.float32).view(len(digests), WIDTH)
