"""How well a checkpoint and its exits do on held-out text somebody wrote.

Perplexity of the end and of every exit, how often an exit chooses what the end chooses, and what
the exits' thresholds keep. It knows files and models; what the model does on its own text is
measured where the thresholds are tuned.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from training.corpus import read_rows
from training.reading import Reader, Reading, join
from training.thresholds import Kept, apply_thresholds

_WINDOW = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One file's figures, by layer; the end stands under the model's depth.

    tokens: scored ones. bits_per_byte is the end's, comparable between tokenizers. agreement is the
    share of positions where the exit chooses as the end; kept is what the thresholds do.
    """

    tokens: int
    perplexity: dict[int, float]
    bits_per_byte: float
    agreement: dict[int, float]
    kept: Kept


def evaluate(
    folder: Path,
    held_out: Path,
    *,
    tokens: int = 20_000,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Score]:
    """Score every file of `held_out` and write the figures to `evaluation.json` in `folder`.

    Of each file about the first `tokens` tokens are read, in windows of 1,024; where rows are
    prompts with references, only the references are scored. Raises FileNotFoundError when
    `held_out` has no files, BadModel when `folder` has no exits.
    """
    paths = sorted(held_out.glob("*.jsonl.xz"))
    if not paths:
        raise FileNotFoundError(f"{held_out} holds no .jsonl.xz file")
    reader = Reader(folder, device=device)
    scores = {}
    for path in paths:
        name = path.name.split(".")[0]
        if progress is not None:
            progress(name)
        scores[name] = _score(reader, path, tokens)
    content = {"format": 1, "texts": {name: asdict(score) for name, score in scores.items()}}
    (folder / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")
    return scores


def _score(reader: Reader, path: Path, tokens: int) -> Score:
    readings, read, size = [], 0, 0
    for ids, start in _passages(reader, path):
        # What is said after position n is scored against the token at n + 1.
        readings.append(reader.read(ids).at(start - 1, len(ids) - 1))
        read += len(ids) - start
        size += len(reader.text(ids[start:]).encode())
        if read >= tokens:
            break
    reading = join(readings)
    means = dict(zip(reader.layers, reading.losses.double().mean(dim=1).tolist(), strict=True))
    agrees = reading.agrees.float().mean(dim=1).tolist()
    return Score(
        tokens=read,
        perplexity={layer: math.exp(mean) for layer, mean in means.items()},
        bits_per_byte=means[reader.layers[-1]] * read / size / math.log(2),
        agreement=dict(zip(reader.exits, agrees, strict=True)),
        kept=_kept(reader, reading),
    )


def _passages(reader: Reader, path: Path) -> Iterator[tuple[list[int], int]]:
    """Token ids and the index of the first one that is scored."""
    window = min(_WINDOW, reader.max_positions)
    for row in read_rows(path):
        if "prompt" in row:
            prompt = reader.ids(row["prompt"])
            # A dialogue's prompt ends in "Assistant:", and what is said follows a space.
            gap = "" if row["prompt"][-1:].isspace() else " "
            ids = reader.ids(row["prompt"] + gap + row["reference"])
            if len(prompt) < len(ids) <= reader.max_positions:
                yield ids, len(prompt)
            continue
        ids = reader.ids(row["text"])
        for first in range(0, len(ids) - 1, window):
            yield ids[first : first + window], 1


def _kept(reader: Reader, reading: Reading) -> Kept:
    thresholds = tuple(reader.thresholds.values())
    return apply_thresholds(reading.confidence[:-1].numpy(), reading.agrees.numpy(), thresholds)
