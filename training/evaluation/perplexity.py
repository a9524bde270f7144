"""How well a checkpoint and its exits do on held-out text somebody wrote.

Perplexity of the end and of every exit, how often an exit chooses what the end chooses, and what
the exits' thresholds keep. It knows files and models; what the model does on its own text is
measured where the thresholds are tuned.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.calibration.thresholds import Kept, apply_thresholds
from training.evaluation.reading import Reader, Reading, identity, join
from training.evaluation.samples import write_samples
from training.text.documents import Document, read_documents

_WINDOW = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One file's figures, by layer; the end stands under the model's depth.

    tokens: scored ones. perplexity_error: one standard error, as if tokens were independent; None
    for a single one. bits_per_byte is the end's, comparable between tokenizers. agreement is the
    share of positions where the exit chooses as the end; kept is what the thresholds do.
    """

    tokens: int
    perplexity: dict[int, float]
    perplexity_error: dict[int, float | None]
    bits_per_byte: float
    agreement: dict[int, float]
    kept: Kept


def evaluate(
    folder: Path,
    held_out: Path,
    *,
    before: Path | None = None,
    tokens: int = 20_000,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Score]:
    """Score every file of `held_out` and write the figures to `evaluation.json` in `folder`, with
    samples of what the model writes, and with the scores of the checkpoint `before` it.

    Of each file about the first `tokens` tokens are read, in windows of 1,024; where rows are
    prompts with references, only the references are scored. Raises FileNotFoundError when
    `held_out` has no files, BadModel when a folder has no exits, ValueError where `before` reads
    text as other tokens.
    """
    paths = sorted(held_out.glob("*.jsonl.xz"))
    if not paths:
        raise FileNotFoundError(f"{held_out} holds no .jsonl.xz file")
    reader = Reader(folder, device=device)
    earlier = None if before is None else Reader(before, device=device)
    if earlier is not None and earlier.tokenizer.get_vocab() != reader.tokenizer.get_vocab():
        raise ValueError(f"{before} reads text as other tokens: perplexities do not compare")
    content: dict[str, Any] = {"format": 1}
    if earlier is not None:
        content["before"] = {"model_fingerprint": identity(earlier.folder)}
        found = _scores(earlier, paths, tokens, progress)
        content["before"]["texts"] = {name: asdict(score) for name, score in found.items()}
    scores = _scores(reader, paths, tokens, progress)
    content["texts"] = {name: asdict(score) for name, score in scores.items()}
    content["samples"] = [asdict(sample) for sample in write_samples(reader)]
    (folder / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")
    return scores


def _scores(
    reader: Reader,
    paths: Sequence[Path],
    tokens: int,
    progress: Callable[[str], None] | None,
) -> dict[str, Score]:
    scores = {}
    for path in paths:
        name = path.name.split(".")[0]
        if progress is not None:
            progress(name)
        passages = read_passages(reader, read_documents(path), tokens=tokens)
        if passages is None:
            raise FileNotFoundError(f"{path} holds neither text nor references that fit")
        scores[name] = score(reader, passages)
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Passages:
    """What was said before each of T scored tokens, and the bytes of their text."""

    reading: Reading
    size: int


def read_passages(
    reader: Reader,
    documents: Iterable[Document],
    *,
    tokens: int,
    progress: Callable[[int], None] | None = None,
) -> Passages | None:
    """Read references after their prompts, and texts in windows, until `tokens` were scored.

    A window begins with nothing before it. `progress` is told how many tokens were scored so far.
    None where no document had anything to score that fits into what the model can read.
    """
    readings, read, size = [], 0, 0
    for ids, start in _passages(reader, documents):
        # What is said after position n is scored against the token at n + 1.
        readings.append(reader.read(ids, start - 1).at(0, len(ids) - start))
        read += len(ids) - start
        size += len(reader.text(ids[start:]).encode())
        if progress is not None:
            progress(read)
        if read >= tokens:
            break
    return Passages(reading=join(readings), size=size) if readings else None


def score(reader: Reader, passages: Passages) -> Score:
    """The figures of what was read: perplexity is exp of the mean loss in nats a token."""
    losses = passages.reading.losses.double()
    read = losses.shape[1]
    means = dict(zip(reader.layers, losses.mean(dim=1).tolist(), strict=True))
    perplexity = {layer: math.exp(mean) for layer, mean in means.items()}
    errors: dict[int, float | None] = dict.fromkeys(means)
    if read > 1:
        # The first order of exp, as llama.cpp's perplexity states it.
        deviations = losses.std(dim=1).tolist()
        for layer, deviation in zip(reader.layers, deviations, strict=True):
            errors[layer] = perplexity[layer] * deviation / math.sqrt(read)
    agrees = passages.reading.agrees.float().mean(dim=1).tolist()
    return Score(
        tokens=read,
        perplexity=perplexity,
        perplexity_error=errors,
        bits_per_byte=means[reader.layers[-1]] * read / max(1, passages.size) / math.log(2),
        agreement=dict(zip(reader.exits, agrees, strict=True)),
        kept=_kept(reader, passages.reading),
    )


def _passages(reader: Reader, documents: Iterable[Document]) -> Iterator[tuple[list[int], int]]:
    """Token ids and the index of the first one that is scored."""
    window = min(_WINDOW, reader.max_positions)
    for document in documents:
        if document.prompt is not None:
            if document.reference:
                yield from _reference(reader, document.prompt, document.reference)
            continue
        ids = reader.ids(document.text or "")
        for first in range(0, len(ids) - 1, window):
            yield ids[first : first + window], 1


def _reference(reader: Reader, text: str, reference: str) -> Iterator[tuple[list[int], int]]:
    prompt = reader.ids(text)
    # A dialogue's prompt ends in "Assistant:", and what is said follows a space.
    gap = "" if text[-1:].isspace() else " "
    ids = reader.ids(text + gap + reference)
    if 0 < len(prompt) < len(ids) <= reader.max_positions:
        yield ids, len(prompt)


def _kept(reader: Reader, reading: Reading) -> Kept:
    thresholds = tuple(reader.thresholds.values())
    return apply_thresholds(reading.confidence[:-1].numpy(), reading.agrees.numpy(), thresholds)
