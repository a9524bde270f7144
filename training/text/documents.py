"""Files of held-out documents: JSON lines of prompts, with or without references, or of text.

    {"prompt": "Question: who was king?\\nAnswer:", "reference": "Nobody."}
    {"prompt": "Once upon a time"}
    {"text": "A whole document, only read."}

Further names in a row are passed over. A row in another form is an error that names its line. It
knows files; what is measured on them is not its business.
"""

import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


class BadDocuments(ValueError):
    """A file that holds no such rows; the message names the file, the line and what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One row: its line in the file, from 1, and what stood there. There is a prompt or a text."""

    line: int
    prompt: str | None = None
    reference: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with its ids by the model's tokenizer, and what somebody answered, where known."""

    text: str
    ids: Sequence[int]
    reference: str | None = None
    line: int = 0


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the rows of a JSON lines file, one ending in `.xz` unpacked; empty lines are no rows.

    Raises BadDocuments for a row in another form, a file cut short or one without rows, OSError
    where it cannot be read.
    """
    number, found = 0, False
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    found = True
                    yield _document(number, line)
    except BadDocuments as error:
        raise BadDocuments(f"{path}, line {number}: {error}") from error
    except (EOFError, lzma.LZMAError) as error:
        raise BadDocuments(f"{path}, after line {number}: cannot be unpacked: {error}") from error
    if not found:
        raise BadDocuments(f"{path} holds no rows")


def fitting(
    documents: Iterable[Document], encode: Callable[[str], Sequence[int]], *, longest: int
) -> Iterator[Prompt]:
    """The prompts of 1 to `longest` tokens; documents without one are passed over."""
    for document in documents:
        if document.prompt is None:
            continue
        ids = encode(document.prompt)
        if 0 < len(ids) <= longest:
            yield Prompt(document.prompt, tuple(ids), document.reference, document.line)


def _document(number: int, line: bytes) -> Document:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise BadDocuments(f"no JSON in UTF-8: {error}") from error
    if not isinstance(row, dict):
        raise BadDocuments("a row is an object with a prompt or a text")
    if "prompt" not in row and "text" not in row:
        named = ", ".join(map(repr, row)) or "nothing"
        raise BadDocuments(f'a row has a "prompt" or a "text"; here is {named}')
    if "prompt" not in row and "reference" in row:
        raise BadDocuments("a reference needs its prompt")
    return Document(
        line=number,
        prompt=_string(row, "prompt"),
        reference=_string(row, "reference"),
        text=None if "prompt" in row else _string(row, "text"),
    )


def _string(row: dict[str, Any], name: str) -> str | None:
    """The text under a name, None where it is not there; a reference may be null."""
    if name not in row or (name == "reference" and row[name] is None):
        return None
    if not isinstance(row[name], str):
        raise BadDocuments(f'"{name}" is a string, not {type(row[name]).__name__}')
    return str(row[name])


def _open(path: Path) -> IO[bytes]:
    return lzma.open(path) if path.suffix == ".xz" else path.open("rb")
