"""Documents of given text, split into those to learn from and those to judge on.

A document is a row of a JSON-lines file or a whole .txt file. It is learned from or judged on as a
whole, and the same text never both: its digest decides.
"""

import hashlib
import json
import lzma
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from training.text.corpus import mixture_of, read_rows, text_files

# Of so many documents one is held out.
HELD_OUT = 20
# A longer document gives its beginning only, so that no single book is all there is to learn from.
_LONGEST = 8_000  # characters

Ids = list[int]


def read_documents(
    paths: Sequence[Path], encode: Callable[[str], Ids], *, tokens: int
) -> list[Ids]:
    """About `tokens` tokens of the files in `paths` (files or folders of them), by document, shared
    out by the reference mixture where its sources are all there, otherwise by size.

    The sources take turns. Raises FileNotFoundError when there is no file of text, ValueError for
    what is no text.
    """
    files = [file for path in paths for file in text_files(path)]
    if not files:
        raise FileNotFoundError(f"no file of text in {', '.join(map(str, paths))}")
    names = Counter(map(_source, files))
    named = {_source(file) if names[_source(file)] == 1 else str(file): file for file in files}
    sources = [
        _take(named[name], encode, max(1, int(tokens * share)))
        for name, share in mixture_of(named).items()
    ]
    turns = chain.from_iterable(zip_longest(*sources))
    return [document for document in turns if document is not None]


def split_documents(documents: Iterable[Ids]) -> tuple[list[Ids], list[Ids]]:
    """Documents to learn from and held-out ones, about one in `HELD_OUT` and at least one.

    What occurs twice is on one side. Raises ValueError for fewer than two different documents.
    """
    known = {_digest(document): document for document in documents}
    if len(known) < 2:
        raise ValueError("one document cannot be split into what is learned and what is held out")
    aside = set(sorted(known)[: -(-len(known) // HELD_OUT)])
    learned = [document for digest, document in known.items() if digest not in aside]
    return learned, [document for digest, document in known.items() if digest in aside]


def without(documents: Iterable[Ids], others: Iterable[Ids]) -> list[Ids]:
    """The documents that are none of the others."""
    known = set(map(_digest, others))
    return [document for document in documents if _digest(document) not in known]


def _source(file: Path) -> str:
    return file.name.split(".")[0]


def _take(file: Path, encode: Callable[[str], Ids], left: int) -> Iterator[Ids]:
    try:
        for row in read_rows(file):
            if left <= 0:
                return
            ids = encode(_text(row)[:_LONGEST])
            if len(ids) > 1:
                yield ids
                left -= len(ids)
    except (json.JSONDecodeError, lzma.LZMAError, UnicodeDecodeError, KeyError) as error:
        raise ValueError(f"{file} holds what is no text: {error!r}") from error


def _text(row: Any) -> str:
    if not isinstance(row, dict):
        raise KeyError("a row that is no object")
    if "text" in row:
        return str(row["text"])
    return f"{row['prompt']}{row.get('reference', '')}"


def _digest(document: Ids) -> str:
    return hashlib.sha256(np.array(document, dtype=np.int64).tobytes()).hexdigest()
