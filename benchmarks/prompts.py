"""The prompts of a run, with their token ids: the first ones of a file that fit.

It knows how many there must be; what is asked about them is not its business.
"""

from itertools import islice
from pathlib import Path

from cli.errors import CommandError
from services.edge.text import TextCodec
from training.text.documents import Prompt, fitting, read_documents

__all__ = ["SHIPPED", "Prompt", "read"]

SHIPPED = Path(__file__).parents[1] / "cli" / "load" / "prompts.jsonl"


def read(path: Path, model: Path, *, count: int, longest: int) -> list[Prompt]:
    """The first `count` prompts of at most `longest` tokens; `.xz` is read.

    Raises:
        CommandError: the file cannot be read, or has fewer.
    """
    try:
        prompts = fitting(read_documents(path), TextCodec(model).encode, longest=longest)
        found = list(islice(prompts, count))
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    if len(found) < count:
        raise CommandError(f"{path} has {len(found)} prompts of 1 to {longest} tokens, not {count}")
    return found
