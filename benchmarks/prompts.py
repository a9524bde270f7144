"""The prompts of a run, with their token ids: read from JSON lines, the first ones that fit.

It knows files and the tokenizer; what is asked about them is not its business.
"""

import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cli.errors import CommandError
from services.edge.text import TextCodec

SHIPPED = Path(__file__).parents[1] / "cli" / "load" / "prompts.jsonl"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and its ids by the model's tokenizer."""

    text: str
    ids: tuple[int, ...]


def read(path: Path, model: Path, *, count: int, longest: int) -> list[Prompt]:
    """The first `count` prompts of at most `longest` tokens; `.xz` is read.

    Raises:
        CommandError: the file cannot be read, or has fewer.
    """
    codec = TextCodec(model)
    try:
        raw = path.read_bytes()
        lines = (lzma.decompress(raw) if path.suffix == ".xz" else raw).splitlines()
        found = list(islice(_fitting(lines, codec, longest), count))
    except (OSError, ValueError, KeyError, TypeError, lzma.LZMAError) as error:
        raise CommandError(f"{path} holds no prompts as JSON lines: {error!r}") from error
    if len(found) < count:
        raise CommandError(f"{path} has {len(found)} prompts of 1 to {longest} tokens, not {count}")
    return found


def _fitting(lines: list[bytes], codec: TextCodec, longest: int) -> Iterator[Prompt]:
    for line in lines:
        text = json.loads(line)["prompt"]
        ids = tuple(codec.encode(text))
        if 0 < len(ids) <= longest:
            yield Prompt(text, ids)
