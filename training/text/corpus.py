"""Text files into token windows: one flat uint16 file per source, drawn from by a mixture.

Documents are stored as begin, text, end and follow each other without gaps; a window starts
anywhere. Which windows make batch n is a pure function of the seed and n, so a resumed run reads
what an uninterrupted one would have read. Nothing here knows the model.
"""

import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from training.config import MIXTURE
from training.text.tokenizer import load_tokenizer, train_tokenizer

# Enough to learn 4,096 tokens from, in seconds.
TOKENIZER_CHARACTERS = 24_000_000
_LONGEST_SAMPLE = 20_000
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Corpus:
    """Memory-mapped sources by name, and a fingerprint of the text they came from."""

    sources: Mapping[str, npt.NDArray[np.uint16]]
    fingerprint: str

    def batch(
        self, seed: int, step: int, *, rows: int, length: int, mixture: Mapping[str, float]
    ) -> npt.NDArray[np.int64]:
        """Return windows [rows, length + 1] for one step: inputs and, shifted by one, targets.

        `mixture` gives each source's share of the rows, to any scale. Raises KeyError when it names
        one that is not here.
        """
        random = np.random.default_rng([seed, step])
        names, shares = list(mixture), np.array(list(mixture.values()))
        chosen = random.choice(len(names), size=rows, p=shares / shares.sum())
        windows = np.empty((rows, length + 1), dtype=np.int64)
        for row, source in enumerate(chosen):
            tokens = self.sources[names[source]]
            start = random.integers(0, max(1, len(tokens) - length))
            windows[row] = np.take(tokens, np.arange(start, start + length + 1), mode="wrap")
        return windows


def choose_mixture(text: Path) -> dict[str, float]:
    """The reference mixture where its sources are all there, otherwise shares by file size.

    Raises FileNotFoundError when `text` holds no file that can be read.
    """
    found = {path.name.split(".")[0]: path for path in text_files(text)}
    if not found:
        raise FileNotFoundError(f"{text} holds no .jsonl.xz and no .txt file")
    return mixture_of(found)


def mixture_of(paths: Mapping[str, Path]) -> dict[str, float]:
    """The same for files that were found, by the name of their source."""
    if paths.keys() >= MIXTURE.keys():
        return dict(MIXTURE)
    sizes = {source: path.stat().st_size for source, path in sorted(paths.items())}
    return {source: size / sum(sizes.values()) for source, size in sizes.items()}


def prepare_corpus(
    text: Path,
    cache: Path,
    mixture: Mapping[str, float],
    *,
    vocabulary: int,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> tuple[Corpus, PreTrainedTokenizerFast]:
    """Train the tokenizer and tokenize every source of the mixture, or find both in `cache`.

    What lies in `cache` is named by the text, the mixture and the vocabulary it was made from; with
    a `tokenizer` given, which is then used as it is, by the text and that. Raises FileNotFoundError
    when the mixture names a source that `text` does not have.
    """
    paths = {source: _find(text, source) for source in mixture}
    if tokenizer is None:
        made_from = json.dumps([vocabulary, dict(mixture)])
    else:
        paths = dict(sorted(paths.items()))
        made_from = json.dumps([list(paths), tokenizer.backend_tokenizer.to_str()])
    digest = hashlib.sha256(made_from.encode())
    for path in paths.values():
        digest.update(path.read_bytes())
    folder = cache / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    used = tokenizer or _prepare_tokenizer(folder / "tokenizer", paths, mixture, vocabulary)
    sources = {
        source: _tokens(path, folder / f"{source}.bin", used) for source, path in paths.items()
    }
    return Corpus(sources, digest.hexdigest()), used


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the objects of a JSON-lines file (.xz or plain), or a .txt file as one `text`."""
    if path.suffix == ".txt":
        yield {"text": path.read_text(encoding="utf-8")}
        return
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def pack(documents: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    """Yield each document's ids: begin, text, end."""
    end = [tokenizer.eos_token_id]
    remaining = iter(documents)
    while chunk := list(islice(remaining, _CHUNK)):
        for ids in tokenizer(chunk, verbose=False)["input_ids"]:
            yield ids + end


def sample_documents(
    paths: Mapping[str, Path], mixture: Mapping[str, float], characters: int
) -> Iterator[str]:
    """Yield about `characters` characters of documents, shared out as the mixture says.

    A long document gives only its beginning, so that no single book fills a source's share.
    """
    for source, share in mixture.items():
        left = int(characters * share)
        for row in read_rows(paths[source]):
            if left <= 0:
                break
            document = row["text"][: min(left, _LONGEST_SAMPLE)]
            yield document
            left -= len(document)


def text_files(text: Path) -> list[Path]:
    """The files of text in a folder; a file stands for itself."""
    if text.is_file():
        return [text]
    return sorted([*text.glob("*.jsonl.xz"), *text.glob("*.jsonl"), *text.glob("*.txt")])


def _find(text: Path, source: str) -> Path:
    for path in text_files(text):
        if path.name.split(".")[0] == source:
            return path
    raise FileNotFoundError(f"{text} holds no source named {source}")


def _prepare_tokenizer(
    folder: Path, paths: Mapping[str, Path], mixture: Mapping[str, float], vocabulary: int
) -> PreTrainedTokenizerFast:
    if not (folder / "tokenizer.json").exists():
        sample = sample_documents(paths, mixture, TOKENIZER_CHARACTERS)
        train_tokenizer(sample, vocabulary).save_pretrained(folder)
    return load_tokenizer(folder)


def _tokens(
    source: Path, shard: Path, tokenizer: PreTrainedTokenizerFast
) -> npt.NDArray[np.uint16]:
    if not shard.exists():
        unfinished = shard.with_suffix(".part")
        with unfinished.open("wb") as out:
            for ids in pack((row["text"] for row in read_rows(source)), tokenizer):
                np.array(ids, dtype=np.uint16).tofile(out)
        unfinished.rename(shard)
    return np.memmap(shard, dtype=np.uint16, mode="r")
