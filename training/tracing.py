"""Traces of a checkpoint: what its exits say along the whole model's own continuations.

Served, an exit is asked about text the model is writing; so held-out prompts are continued greedily
by the whole model, and the exits are asked at every place of each continuation, with a drafter in
place where there is one. A continuation is one document. Knows files and models; what is made of
traces is others' business.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from shared.errors import BadModel
from shared.exits.traces import ExitTrace, Trace, write_traces
from shared.model import LayerSpan, SpanModel, load_span
from shared.model.checkpoint import read_checkpoint
from shared.model.exits import read_drafter
from shared.model.fingerprint import fingerprint
from training.acceptance import exit_logits
from training.reading import Reader, signals_of
from training.tuning import held_out_prompts

Progress = Callable[[int, int], None]
# The split and edge depth of a drafter beside a checkpoint; None: the checkpoint's own exits.
Cut = tuple[int, int]
# Prompts continued at a time: the engine writes on so many together.
_GROUP = 32
# float32 holds no more; a line of text holds this much in half the room.
_DECIMALS = 6


def trace_checkpoint(
    folder: Path,
    held_out: Path,
    *,
    cuts: Sequence[Cut | None] = (None,),
    prompts: int | None = None,
    tokens: int = 64,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Iterator[dict[Cut | None, Trace]]:
    """Yield, for each held-out prompt, the trace of its continuation by each cut.

    Every file of `held_out` that has prompts gives up to `prompts` of them (by default all that
    fit), each continued by up to `tokens` tokens (at most half of what the model can read). Raises
    FileNotFoundError when `held_out` has no prompts, BadModel when `folder` lacks exits or a
    drafter, or has one that was trained for other weights.
    """
    reader = Reader(folder, device=device)
    weights = fingerprint(folder, read_checkpoint(folder))
    edges = {cut: _edge(reader, cut, weights) for cut in cuts}
    tokens = min(tokens, reader.max_positions // 2)
    room = reader.max_positions - tokens
    most = prompts if prompts is not None else -1
    sources = held_out_prompts(held_out, reader.ids, most=most, longest=room)
    done, total = 0, sum(map(len, sources.values()))
    for source, texts in sources.items():
        numbered = iter(enumerate(texts))
        while group := list(islice(numbered, _GROUP)):
            answers = reader.continuations([prompt for _, prompt in group], tokens)
            for (number, prompt), answer in zip(group, answers, strict=True):
                about = _About(weights, f"{source}-{number}", source)
                yield {cut: edge.trace(about, prompt, answer) for cut, edge in edges.items()}
                done += 1
                if progress is not None:
                    progress(done, total)


def write_checkpoint_traces(
    folder: Path,
    held_out: Path,
    out: Path,
    *,
    prompts: int | None = None,
    tokens: int = 64,
    device: str = "cpu",
    progress: Progress | None = None,
) -> None:
    """Write into the folder `out` a file of traces of the checkpoint's exits, and one for each
    drafter beside it (`traces_of` names them). Otherwise as `trace_checkpoint`.
    """
    cuts: list[Cut | None] = [None, *drafters_beside(folder)]
    found = list(
        trace_checkpoint(
            folder,
            held_out,
            cuts=cuts,
            prompts=prompts,
            tokens=tokens,
            device=device,
            progress=progress,
        )
    )
    out.mkdir(parents=True, exist_ok=True)
    for cut in cuts:
        write_traces(out / traces_of(cut), (traces[cut] for traces in found))


def drafters_beside(folder: Path) -> list[Cut]:
    """The cuts that have a drafter beside the checkpoint, rising."""
    names = (path.stem.split("-") for path in folder.glob("drafter-*-*.json"))
    return sorted((int(split), int(depth)) for _, split, depth in names)


def traces_of(cut: Cut | None) -> str:
    """The name of a file of traces: of a checkpoint's own exits, or of a drafter's cut."""
    return "traces.jsonl.xz" if cut is None else f"traces-{cut[0]}-{cut[1]}.jsonl.xz"


@dataclass(frozen=True, slots=True)
class _About:
    model_fingerprint: str
    document: str
    source: str


@dataclass(frozen=True, slots=True)
class _Edge:
    """What an edge holds: its span and the layers in front of which its exits are."""

    model: SpanModel
    exits: tuple[int, ...]

    @torch.inference_mode()
    def trace(self, about: _About, prompt: Sequence[int], answer: Sequence[int]) -> Trace:
        """The document of a greedy answer: what the exits say of each of its tokens."""
        # The token at position n is chosen by what is said after position n - 1.
        logits = exit_logits(self.model, self.exits, [*prompt, *answer[:-1]], len(prompt) - 1)
        return as_trace(logits, answer, about.model_fingerprint, about.document, about.source)


def as_trace(
    logits: Mapping[int, Tensor],
    answer: Sequence[int],
    model_fingerprint: str,
    document: str,
    source: str,
) -> Trace:
    """A document of what the full model chose greedily, and the logits [T, V] from which each exit,
    by layer, would have chosen each of its T tokens; signals are rounded to six decimals.
    """
    exits = {}
    for layer, said in logits.items():
        top, entropy, margin, sharp = signals_of(said).double().round(decimals=_DECIMALS).tolist()
        exits[layer] = ExitTrace(
            token=tuple(said.argmax(dim=-1).tolist()),
            top=tuple(top),
            entropy=tuple(entropy),
            margin=tuple(margin),
            sharp=tuple(sharp),
        )
    return Trace(
        model_fingerprint=model_fingerprint,
        document=document,
        source=source,
        kind="greedy",
        whole=tuple(answer),
        exits=exits,
    )


def _edge(reader: Reader, cut: Cut | None, weights: str) -> _Edge:
    if cut is None:
        return _Edge(reader.model, reader.exits)
    drafter = read_drafter(reader.folder, *cut)
    if drafter is None:
        raise BadModel(f"{reader.folder} has no drafter for split {cut[0]}, edge depth {cut[1]}")
    if drafter.model_fingerprint != weights:
        raise BadModel(f"the drafter {cut[0]}-{cut[1]} in {reader.folder} is for other weights")
    exits = tuple(sorted(drafter.infos))
    model = load_span(
        reader.folder,
        LayerSpan(0, drafter.edge_depth, reader.model.span.depth),
        dtype=torch.float32,
        device=str(reader.model.device),
        embedding=True,
        head=False,
        exits=exits,
        drafter=drafter,
    )
    return _Edge(model, exits)
