"""Traces of a checkpoint: what its exits say along the whole model's own continuations.

Served, an exit is asked about text the model is writing; so held-out prompts are continued by the
whole model, greedily or drawn, and every place of each continuation is read. A continuation is one
document.
Knows files and models; what is made of traces is others' business.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from torch import Tensor

from shared.exits.calibration import Text, suffix_of
from shared.exits.traces import ExitTrace, Trace, write_traces
from shared.model.exits import exits_sha256
from training.evaluation.reading import Reader, Reading, identity
from training.evaluation.tuning import held_out_prompts, independent
from training.evaluation.writing import DRAWN, GREEDY

Progress = Callable[[int, int], None]
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
    text: Text = "greedy",
    prompts: int | None = None,
    tokens: int = 64,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Iterator[dict[Cut | None, Trace]]:
    """Yield, for each held-out prompt, the trace of its continuation by each cut.

    cuts: split and edge depth of drafters beside the checkpoint; None is the checkpoint's own
    exits. text: how everybody chooses; drawn, each document has a seed of its own. Every file of
    `held_out` that has prompts gives up to `prompts` of them (by default all that fit), less those
    that quote an earlier one at length; each is continued by up to `tokens` tokens (at most half of
    what the model can read). Documents are numbered as the prompts are. Raises FileNotFoundError
    when `held_out` has no prompts, BadModel when `folder` lacks exits or a drafter.
    """
    readers = {cut: Reader(folder, cut=cut, device=device) for cut in cuts}
    writer = next(iter(readers.values()))
    weights = identity(folder)
    spoke = {cut: exits_sha256(folder, cut) for cut in cuts}
    tokens = min(tokens, writer.max_positions // 2)
    room = writer.max_positions - tokens
    most = -1 if prompts is None else prompts
    found = held_out_prompts(held_out, writer.ids, most=most, longest=room)
    sources = {source: independent(texts) for source, texts in found.items()}
    parameters = DRAWN if text == "sampled" else GREEDY
    done, total = 0, sum(map(len, sources.values()))
    for source, texts in sources.items():
        numbered = iter(texts)
        while group := list(islice(numbered, _GROUP)):
            asked = [prompt for _, prompt in group]
            answers = writer.continuations(asked, tokens, parameters, seed=done)
            for (number, prompt), answer in zip(group, answers, strict=True):
                # The token at position n is chosen by what is said after position n - 1.
                start = len(prompt) - 1
                ids = [*prompt, *answer[:-1]]
                yield {
                    cut: as_trace(
                        reader.read(ids, start, parameters, seed=done),
                        reader.exits,
                        kind=text,
                        model_fingerprint=weights,
                        exits_sha256=spoke[cut],
                        document=f"{source}-{number}",
                        source=source,
                    )
                    for cut, reader in readers.items()
                }
                done += 1
                if progress is not None:
                    progress(done, total)


def write_checkpoint_traces(
    folder: Path,
    held_out: Path,
    out: Path,
    *,
    text: Text = "greedy",
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
            text=text,
            prompts=prompts,
            tokens=tokens,
            device=device,
            progress=progress,
        )
    )
    out.mkdir(parents=True, exist_ok=True)
    for cut in cuts:
        write_traces(out / traces_of(cut, text), (traces[cut] for traces in found))


def drafters_beside(folder: Path) -> list[Cut]:
    """The cuts that have a drafter beside the checkpoint, rising."""
    names = (path.stem.split("-") for path in folder.glob("drafter-*-*.json"))
    return sorted((int(split), int(depth)) for _, split, depth in names)


def traces_of(cut: Cut | None, text: Text = "greedy") -> str:
    """The name of a file of traces: of a checkpoint's own exits, or of a drafter's cut."""
    return f"traces{suffix_of(cut, text)}.jsonl.xz"


def as_trace(
    reading: Reading,
    exits: Sequence[int],
    *,
    model_fingerprint: str,
    exits_sha256: str | None,
    document: str,
    source: str,
    kind: Text = "greedy",
) -> Trace:
    """A reading of a text the whole model chose, as a document; signals are rounded to
    six decimals.
    """
    choices, signals = reading.choices.tolist(), _rounded(reading.signals)
    said = {
        layer: ExitTrace(
            token=tuple(choices[row]),
            top=tuple(signals[0][row]),
            entropy=tuple(signals[1][row]),
            margin=tuple(signals[2][row]),
            sharp=tuple(signals[3][row]),
        )
        for row, layer in enumerate(exits)
    }
    return Trace(
        model_fingerprint=model_fingerprint,
        document=document,
        source=source,
        kind=kind,
        whole=tuple(choices[-1]),
        exits=said,
        exits_sha256=exits_sha256,
    )


def _rounded(signals: Tensor) -> list[list[list[float]]]:
    rounded: list[list[list[float]]] = signals.double().round(decimals=_DECIMALS).tolist()
    return rounded
