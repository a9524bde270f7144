"""A span of a model and its one forward over many sessions, with the heads that read its states.

Computes on the caller's thread and belongs to one thread at a time. Knows neither tokens' meaning,
sessions, nor where states travel.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from shared.errors import Abandoned
from shared.model.cache import KVCache, Ledger, reserve
from shared.model.exits import ExitInfo
from shared.model.families import Source
from shared.model.lean import LeanLayer, Turn
from shared.model.manifest import Manifest
from shared.model.masks import Sight
from shared.model.network import Network, Parts
from shared.model.pool import Layout, Pool
from shared.model.quantized import ungraded
from shared.model.ragged import (
    Segment,
    Stretch,
    Tap,
    check,
    rows_of,
    side_by_side,
    sights_of,
    stretches,
    unwanted,
)
from shared.model.span import LayerSpan, ModelShape


class SpanModel:
    """Layers of a model with embedding, head and exits as far as it has them.

    `span`, `shape`, `dtype` and `device` describe it, `exits` maps layers to what is known of the
    exit in front of them, and `manifest` is there when it came from a bundle.
    """

    def __init__(
        self,
        source: Source,
        parts: Parts,
        network: Network,
        *,
        dtype: torch.dtype,
        device: torch.device,
        exits: Mapping[int, ExitInfo],
        manifest: Manifest | None = None,
    ) -> None:
        self.span: LayerSpan = parts.span
        self.shape = ModelShape.of(source.config)
        self.dtype = dtype
        self.device = device
        self.exits = dict(exits)
        self.manifest = manifest
        self.network = network
        self._ledger = Ledger()
        self._pool = Pool(
            Layout(
                layers=len(parts.span.layers),
                kv_heads=self.shape.kv_heads,
                head_dim=self.shape.head_dim,
                positions=self.shape.max_positions,
                dtype=dtype,
                device=device,
            )
        )
        self._layers = [LeanLayer(network.model.layers[str(n)]) for n in parts.span.layers]
        self._layer_types: Sequence[str | None] = (
            source.config.layer_types
            if source.family.rotary_by_layer_type
            else [None] * self.shape.depth
        )
        self._ungraded = ungraded(network)
        self._softcap: float | None = getattr(source.config, "final_logit_softcapping", None)

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV held by all caches of this model."""
        return self._ledger.held

    @property
    def kv_token_bytes(self) -> int:
        """Bytes of KV of one position, at all layers of this model."""
        return self._pool.layout.row_bytes * len(self.span.layers)

    @property
    def kv_layout(self) -> Layout:
        """How sessions' KV is laid out."""
        return self._pool.layout

    @property
    def kv_budget_bytes(self) -> int | None:
        """The most bytes of KV all caches may hold (None: no limit)."""
        return self._ledger.limit

    @kv_budget_bytes.setter
    def kv_budget_bytes(self, limit: int | None) -> None:
        self._ledger.limit = limit

    def new_cache(self) -> KVCache:
        """An empty cache for one session of this model."""
        return KVCache(self.span.layers, self._pool, self._ledger)

    def forward(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Run every segment through its layers; returns per segment the states [T, H] that enter
        its layer `stop`.

        The linear layers of a layer run once for the rows of all segments active at it. The caches
        grow by the rows only when all of it has succeeded.

        Raises:
            ValueError: a segment does not fit its cache or this span, two share a cache, or a tap
                returned states of another shape.
            OutOfMemory: the rows do not fit the KV budget. Nothing was computed or written.
            Abandoned: no segment was wanted any more; every cache holds the rows it held before.
        """
        self._check(segments)
        with self._ungraded():
            reserve(self._ledger, [(s.cache, s.layers, s.end) for s in segments])
            # Sessions whose caches lie side by side are attended together.
            order = side_by_side(segments)
            states = self._through([segments[n] for n in order])
            for segment in segments:
                segment.cache.extend(segment.layers, segment.end)
            if len(states) == 1:
                return states
            # A view would keep the states of every other session alive with it.
            back = dict(zip(order, states, strict=True))
            return [back[n].clone() for n in range(len(segments))]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [R, V] of states [R, H] that leave the last layer: float32, or float64 in a
        float64 model.

        Raises:
            ValueError: this span has no head.
        """
        if self.network.model.norm is None:
            raise ValueError("this span has no head")
        with self._ungraded():
            return self.unembed(self.network.model.norm(self._local(hidden)))

    def exit_logits(self, layer: int, hidden: Tensor) -> Tensor:
        """Logits [R, V] the exit in front of `layer` reads from states [R, H] that enter it; dtype
        as in `logits`.

        Raises:
            ValueError: there is no exit there.
        """
        if layer not in self.exits:
            raise ValueError(f"there is no exit in front of layer {layer}")
        head: nn.Module = self.network.exits[str(layer)]
        with self._ungraded():
            return self.unembed(head(self._local(hidden)))

    def unembed(self, normed: Tensor) -> Tensor:
        """Logits [R, V] of states [R, H] that a norm has left; dtype as in `logits`. Where the
        caller has gradients, it keeps those of the states.
        """
        assert self.network.lm_head is not None
        logits: Tensor = self.network.lm_head(normed)
        logits = logits.to(torch.promote_types(self.dtype, torch.float32))
        if self._softcap is not None:
            logits = self._softcap * torch.tanh(logits / self._softcap)
        return logits

    def _check(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            if not self.span.start <= segment.start < segment.stop <= self.span.stop:
                raise ValueError(f"[{segment.start}, {segment.stop}) is not within {self.span}")
            if segment.cache.ledger is not self._ledger:
                raise ValueError("the cache belongs to another model")
            check(segment, hidden=self.shape.hidden, max_positions=self.shape.max_positions)
            if segment.ids is not None and self.network.model.embed_tokens is None:
                raise ValueError("this span has no embedding")
        if len({id(segment.cache) for segment in segments}) != len(segments):
            raise ValueError("two segments of one forward share a cache")

    def _through(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Per segment the states [T, H] that leave its last layer."""
        states = self._enter(segments)
        sights = sights_of(segments)
        for stretch in stretches(segments):
            active = [segments[n] for n in stretch.active]
            for n, segment in zip(stretch.active, active, strict=True):
                if segment.tap is not None and segment.tap.layer == stretch.first:
                    states[n] = self._tapped(segment.tap, states[n])
            hidden = torch.cat([states[n] for n in stretch.active])
            seen = [sights[n] for n in stretch.active]
            parts = self._run(stretch, active, seen, hidden).split([s.rows for s in active])
            for n, part in zip(stretch.active, parts, strict=True):
                states[n] = part
        return states

    def _enter(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Per segment the states [T, H] that enter its first layer."""
        ids = [s.ids.to(self.device) for s in segments if s.ids is not None]
        embedding = self.network.model.embed_tokens
        if ids and embedding is not None:
            embedded = iter(embedding(torch.cat(ids)).split([len(part) for part in ids]))
        return [next(embedded) if s.states is None else self._local(s.states) for s in segments]

    def _tapped(self, tap: Tap, states: Tensor) -> Tensor:
        """What a tap makes of the states [T, H] that enter its layer."""
        # As in `forward`: a kept view would keep the other sessions' states.
        taken = tap.take(states.clone())
        if taken.shape != states.shape:
            found = f"{list(taken.shape)} for {list(states.shape)}"
            raise ValueError(f"the tap at layer {tap.layer} returned states {found}")
        return self._local(taken)

    def _run(
        self,
        stretch: Stretch,
        active: Sequence[Segment],
        sights: Sequence[Sight],
        hidden: Tensor,
    ) -> Tensor:
        """Run the rows [T, H] of the active segments through the layers of a stretch."""
        layers = range(stretch.first, stretch.last)
        rows = rows_of(active, sights, stretch)
        positions = torch.tensor([[p for s in active for p in s.positions]], device=self.device)
        rotary = self.network.model.rotary_emb
        turns = {
            kind: Turn.of(*rotary(hidden, positions, *([] if kind is None else [kind])))
            for kind in {self._layer_types[n] for n in layers}
        }
        for n in layers:
            if unwanted(active):
                raise Abandoned
            layer = self._layers[n - self.span.start]
            hidden = layer(hidden, turns[self._layer_types[n]], rows)
        return hidden

    def _local(self, states: Tensor) -> Tensor:
        return states.to(device=self.device, dtype=self.dtype)
