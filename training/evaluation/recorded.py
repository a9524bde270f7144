"""Traces that services recorded, on their way to a calibration: whose exits spoke, and which texts
count.

Documents are counted and split as if they had nothing to do with each other. Of texts that are the
same, asked twice or by somebody who looks whether a service is alive, one counts. Turns of a
conversation that was named to one edge are one document; of others it cannot be seen here that they
resemble each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.exits.traces import Trace
from shared.model.exits import exits_sha256
from training.evaluation.tracing import Cut, drafters_beside


@dataclass(frozen=True, slots=True)
class Recorded:
    """Texts that count, and how many do not: `partial` ones, in which an exit was not asked
    somewhere, and `repeated` ones.
    """

    traces: Sequence[Trace]
    partial: int
    repeated: int

    @property
    def documents(self) -> int:
        """Of how many documents the texts are parts."""
        return len({(trace.source, trace.document) for trace in self.traces})


def usable(traces: Iterable[Trace]) -> Recorded:
    """The texts that say what every exit said everywhere, each once in its document, and each
    document once.
    """
    documents: dict[tuple[str, str], dict[object, Trace]] = {}
    partial = repeated = 0
    for trace in traces:
        if not trace.complete:
            partial += 1
            continue
        lines = documents.setdefault((trace.source, trace.document), {})
        repeated += _said(trace) in lines
        lines.setdefault(_said(trace), trace)
    chosen: dict[frozenset[object], list[Trace]] = {}
    for lines in documents.values():
        if frozenset(lines) in chosen:
            repeated += len(lines)
        else:
            chosen[frozenset(lines)] = list(lines.values())
    kept = tuple(trace for found in chosen.values() for trace in found)
    return Recorded(kept, partial, repeated)


def _said(trace: Trace) -> object:
    said = tuple((layer, exit_.token) for layer, exit_ in trace.exits.items())
    return trace.kind, trace.whole, said


def cut_of(folder: Path, traces: Sequence[Trace]) -> Cut | None:
    """The cut whose drafter beside the checkpoint `folder` spoke in all of the traces; None for the
    checkpoint's own exits.

    Raises:
        ValueError: it was neither, or not the same everywhere.
    """
    spoke = {trace.exits_sha256 for trace in traces}
    for cut in (None, *drafters_beside(folder)):
        if spoke == {exits_sha256(folder, cut)}:
            return cut
    raise ValueError(
        f"the exits that were recorded ({len(spoke)} kinds) do not lie beside {folder}: "
        "partition it anew and record with that bundle"
    )
