"""The option `--translator` of the commands that teach exits."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CommandError

if TYPE_CHECKING:
    from shared.model.network import TranslatorShape

TranslatorOption = Annotated[
    str, typer.Option(help="What an exit reads through: affine, a rank, or none.")
]


def translator_shape(translator: str) -> "TranslatorShape":
    """What the option says.

    Raises:
        CommandError: it is neither affine nor none nor a rank.
    """
    from shared.model.network import TranslatorShape  # torch: seconds that --help should not cost

    if translator not in ("affine", "none") and not (translator.isdecimal() and int(translator)):
        raise CommandError(f"--translator {translator} is neither affine nor none nor a rank")
    rank = int(translator) if translator.isdecimal() else None
    return TranslatorShape(rank=rank, affine=translator == "affine")
