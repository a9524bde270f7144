"""Traces as arrays: what E exits said at the N places of D documents, and whether the end agrees.

Documents stay whole: they are the independent units that are split, drawn and counted. Knows
traces and arrays, no models.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.exits.signals import FEATURES
from shared.exits.traces import Trace
from training.calibration.thresholds import Bools

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Texts:
    """D documents after each other.

    exits: E layers, rising. signals [E, N, 4] float64: in the order of FEATURES. choices [E, N] and
    whole [N] int64: tokens chosen. lengths [D] int64: places of each document, at least 1.
    sources: where each of the D documents is from.
    """

    exits: tuple[int, ...]
    signals: Numbers
    choices: Counts
    whole: Counts
    lengths: Counts
    sources: tuple[str, ...]

    @property
    def agrees(self) -> Bools:
        """[E, N]: where an exit chose as the full model did."""
        agrees: Bools = self.choices == self.whole
        return agrees

    @property
    def documents(self) -> Counts:
        """[N]: the number of each place's document."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def part(self, chosen: Sequence[int] | Counts) -> "Texts":
        """The chosen documents, in the order of their numbers."""
        numbers = np.unique(chosen)
        kept = np.isin(self.documents, numbers)
        return Texts(
            self.exits,
            self.signals[:, kept],
            self.choices[:, kept],
            self.whole[kept],
            self.lengths[numbers],
            tuple(self.sources[number] for number in numbers),
        )

    def split(self, share: float, seed: int) -> tuple["Texts", "Texts"]:
        """`share` of the documents, drawn by `seed`, and the others."""
        order = np.random.default_rng(seed).permutation(len(self.lengths))
        border = round(share * len(order))
        return self.part(order[:border]), self.part(order[border:])

    def shares(self, marked: Bools) -> Numbers:
        """[D] float64: the share of each document's places that are marked in [N]."""
        return shares_of(marked, self.lengths)


def shares_of(marked: Bools, lengths: Counts) -> Numbers:
    """[D] float64: the share of places that are marked in [N], of each of D documents one after
    another, of these lengths, none of them 0.
    """
    starts = np.cumsum(lengths) - lengths
    shares: Numbers = np.add.reduceat(marked.astype(np.int64), starts) / lengths
    return shares


def as_arrays(traces: Iterable[Trace]) -> Texts:
    """Join traces of one checkpoint and the same exits; those of one source and document are one
    (turns of a conversation), documents without a place are left out.

    Raises ValueError where there are none, where they are of different weights or exits, or where
    an exit or the full model was not asked somewhere.
    """
    documents = _by_document(trace for trace in traces if len(trace))
    found = [trace for document in documents for trace in document]
    kinds = {(t.model_fingerprint, t.exits_sha256, tuple(t.exits), t.kind) for t in found}
    if len(kinds) != 1:
        raise ValueError(f"traces of {len(kinds)} kinds (weights, exits, greedy or sampled), not 1")
    ((_, _, exits, _),) = kinds
    for trace in found:
        if not trace.complete:
            raise ValueError(f"document {trace.document} has places where somebody was not asked")
    rows = [
        np.concatenate(
            [np.array([getattr(t.exits[layer], name) for name in FEATURES], float) for t in found],
            axis=1,
        ).T
        for layer in exits
    ]
    tokens = [[token for t in found for token in t.exits[layer].token] for layer in exits]
    return Texts(
        exits,
        np.stack(rows),
        np.array(tokens, dtype=np.int64),
        np.array([token for t in found for token in t.whole], dtype=np.int64),
        np.array([sum(map(len, document)) for document in documents], dtype=np.int64),
        tuple(document[0].source for document in documents),
    )


def _by_document(traces: Iterable[Trace]) -> list[list[Trace]]:
    """What belongs together, in the order in which documents begin."""
    documents: dict[tuple[str, str], list[Trace]] = {}
    for trace in traces:
        documents.setdefault((trace.source, trace.document), []).append(trace)
    return list(documents.values())
