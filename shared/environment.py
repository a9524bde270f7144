"""How a service reads its settings and says what keeps it from starting: in a line, not a
traceback.

Adds the strictness pydantic-settings leaves out: a variable with a service's prefix that is no
setting is an error.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from shared.errors import TandemError

S = TypeVar("S", bound=BaseSettings)


def refuse_unknown(settings: type[BaseSettings], environ: Mapping[str, str] = os.environ) -> None:
    """Stop the process, naming every variable that starts with the settings' prefix but is none
    of them.
    """
    prefix = settings.model_config.get("env_prefix", "")
    known = {f"{prefix}{name}".upper() for name in settings.model_fields}
    unknown = sorted(n for n in environ if n.upper().startswith(prefix) and n.upper() not in known)
    if unknown:
        raise SystemExit(
            f"unknown settings: {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )


def read(settings: type[S]) -> S:
    """Return the settings of this process's environment.

    Raises:
        SystemExit: a variable is unknown, missing or out of range; every one is named.
    """
    refuse_unknown(settings)
    try:
        return settings()
    except ValidationError as error:
        prefix = settings.model_config.get("env_prefix", "")
        wrong = (
            f"{prefix}{'.'.join(map(str, each['loc'])).upper()}: {each['msg']}"
            for each in error.errors(include_url=False)
        )
        raise SystemExit("wrong settings: " + "; ".join(wrong)) from error


@contextmanager
def starting() -> Iterator[None]:
    """End the process with an error of ours as one line, if one comes up before it serves."""
    try:
        yield
    except TandemError as error:
        raise SystemExit(f"cannot start: {error.message}") from error
