"""How often an edge's draft is the full model's token, and how well its sureness says so.

The full model's own continuations are read by the edge's exit, which drafts with the full model's
noise: a draft is right exactly when both choose the same token. Alternatives are the next best
perturbed scores (Gumbel-top-k, Kool et al., arXiv 1903.06059); the gap between the two best is how
sure the edge is. Knows models and token ids, no files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.decoding.sampling import PrefixState, SamplingParameters, rank
from shared.model import Segment, SpanModel
from shared.model.exits import GapTable
from training.calibration.thresholds import Bools, Floats

RANKS = 4
BINS = 8
# No penalty is measured, so no prefix counts.
_NOTHING = PrefixState.start(())


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt's ids, the full model's answer, and the seed it was sampled with."""

    prompt: Sequence[int]
    answer: Sequence[int]
    seed: int


def as_texts(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[Text]:
    """Prompts with what `write_on` wrote after them, seed n for prompt n."""
    pairs = zip(prompts, answers, strict=True)
    return [Text(prompt, answer, seed) for seed, (prompt, answer) in enumerate(pairs)]


@dataclass(frozen=True, slots=True)
class Drafts:
    """What one exit drafts at the N answered positions of some texts.

    ranks [N] int64: which alternative, from 0, is the full model's token; RANKS where none is.
    gaps [N] float64: best minus second perturbed score, infinite where nothing else was left.
    confidence [N] float32 and agrees [N] bool: the exit's highest probability, and whether its
    likeliest token was the full model's: what thresholds are chosen on, for greedy texts.
    starts [N] bool: a text's first position.
    """

    ranks: npt.NDArray[np.int64]
    gaps: npt.NDArray[np.float64]
    confidence: Floats
    agrees: Bools
    starts: Bools

    @property
    def acceptance(self) -> float:
        """Share of positions where the draft is the full model's token."""
        return float((self.ranks == 0).mean())

    def coverage(self, count: int) -> float:
        """Share of positions where one of the `count` best alternatives is."""
        return float((self.ranks < count).mean())

    @property
    def runs(self) -> list[int]:
        """Lengths of the runs of right drafts that a wrong one or a text's end closes."""
        lengths, run = [], 0
        for place, start in zip(self.ranks.tolist(), self.starts.tolist(), strict=True):
            if start and run:
                lengths.append(run)
                run = 0
            if place:
                lengths.append(run)
            run = 0 if place else run + 1
        return [*lengths, run] if run else lengths


def read_drafts(
    edge: SpanModel,
    layers: Sequence[int],
    texts: Iterable[Text],
    parameters: SamplingParameters,
) -> dict[int, Drafts]:
    """What the exits of `edge` in front of `layers` draft along each text, by layer."""
    found: dict[int, list[Drafts]] = {layer: [] for layer in layers}
    for text in texts:
        # The token at position n is chosen by what is said after position n - 1.
        said = exit_logits(edge, layers, [*text.prompt, *text.answer], len(text.prompt) - 1)
        for layer, logits in said.items():
            found[layer].append(_drafts(logits[:-1], text, parameters))
    return {
        layer: Drafts(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("ranks", "gaps", "confidence", "agrees", "starts")
            )
        )
        for layer, parts in found.items()
    }


def calibrate(drafts: Drafts) -> GapTable:
    """The chance of each alternative by gap, in up to BINS bins of as many finite gaps each."""
    finite = drafts.gaps[np.isfinite(drafts.gaps)]
    inner = np.linspace(0, 1, BINS + 1)[1:-1]
    edges = np.unique(np.round(np.quantile(finite, inner), 4)) if len(finite) else finite
    places = np.searchsorted(edges, drafts.gaps, side="right")
    rows = []
    for place in range(len(edges) + 1):
        ranks = drafts.ranks[places == place]
        counts = np.bincount(ranks, minlength=RANKS + 1)[:RANKS]
        rows.append(tuple(round(float(share), 4) for share in counts / max(1, len(ranks))))
    return GapTable(tuple(float(edge) for edge in edges), tuple(rows))


@torch.inference_mode()
def exit_logits(
    edge: SpanModel, layers: Sequence[int], ids: Sequence[int], first: int = 0
) -> dict[int, Tensor]:
    """What the exits say after every token from `first` on: [T - first, V] by layer."""
    entering = torch.tensor(ids, device=edge.device)
    said: dict[int, Tensor] = {}
    with edge.new_cache() as cache:
        start, states = 0, None
        for stop in sorted(layers):
            given = entering if states is None else None
            (states,) = edge.forward([Segment(cache, start, stop, 0, given, states)])
            said[stop] = edge.exit_logits(stop, states[first:])
            start = stop
    return said


def _drafts(logits: Tensor, text: Text, parameters: SamplingParameters) -> Drafts:
    """logits [N, V]: what precedes each of the answer's N tokens."""
    count, position = len(text.answer), len(text.prompt)
    ranks = np.full(count, RANKS, dtype=np.int64)
    gaps = np.full(count, np.inf)
    for place, (row, token) in enumerate(zip(logits, text.answer, strict=True)):
        ranking = rank(
            row,
            _NOTHING,
            parameters,
            seed=text.seed,
            index=0,
            position=position + place,
            count=RANKS,
        )
        gaps[place] = ranking.lead
        if token in ranking.tokens:
            ranks[place] = ranking.tokens.index(token)
    confidence, choices = logits.softmax(dim=-1).max(dim=-1)
    agrees = choices.cpu().numpy() == np.array(text.answer)
    return Drafts(ranks, gaps, confidence.cpu().numpy(), agrees, np.arange(count) == 0)
