"""The key a command shows an edge: from a file, or from the environment, never from its arguments,
which every user of the machine can read.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError

VARIABLE = "TANDEM_KEY"
KeyFile = Annotated[
    Path | None, typer.Option(help=f"File with the key for the edge; else {VARIABLE}, if set.")
]


def key_of(file: Path | None) -> str | None:
    """The key in `file`, or in the environment, if there is one.

    Raises:
        CommandError: the file cannot be read, or what it holds is no key.
    """
    if file is None:
        return os.environ.get(VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise CommandError(f"--key-file {file}: {why}") from error
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise CommandError(f"--key-file {file}: one line with a key is expected")
    return key


def headers_of(key: str | None) -> dict[str, str]:
    """What a request carries for it."""
    return {} if key is None else {"authorization": f"Bearer {key}"}
