"""Decode steps of many sessions at a context of a given length, without computing that context."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from services.cloud.engine import CloudEngine, Draw, Pass, Pick
from shared.decoding.sampling import PrefixState, SamplingParameters
from shared.model import KVCache, SpanModel
from shared.model.cache import reserve
from shared.runtime.work import Failed

_DRAW = Draw(SamplingParameters(), seed=0, index=0)


@dataclass(slots=True)
class Decoding:
    """Sessions that take a greedy token each step, their caches filled with noise up to `context`
    rows and held there.
    """

    engine: CloudEngine
    caches: Sequence[KVCache]
    context: int
    state: PrefixState

    @classmethod
    def of(cls, model: SpanModel, sessions: int, context: int) -> "Decoding":
        """So many sessions of a model."""
        caches = [model.new_cache() for _ in range(sessions)]
        for kv in caches:
            _fill(model, kv, context)
        return cls(CloudEngine(model), caches, context, PrefixState.start([1]))

    def step(self) -> None:
        """One token of every session."""
        for kv in self.caches:
            kv.truncate(self.context)
        pick = Pick(row=0, position=self.context + 1, state=self.state)
        batch = [
            (Pass(kv, 0, self.context, torch.tensor([7]), [pick], _DRAW), 1) for kv in self.caches
        ]
        for outcome in self.engine.step(batch):
            if outcome is None or isinstance(outcome, Failed):
                raise RuntimeError(f"a decode step ended with {outcome}")

    def close(self) -> None:
        """Give the caches back."""
        for kv in self.caches:
            kv.close()


def _fill(model: SpanModel, kv: KVCache, rows: int) -> None:
    reserve(kv.ledger, [(kv, model.span.layers, rows + 1)])
    for layer in model.span.layers:
        kv.buffer(layer)[:, :, :rows].normal_()
    kv.extend(model.span.layers, rows)
