"""How a service reads its settings and says what keeps it from starting: in a line, not a
traceback.

Adds the strictness pydantic-settings leaves out: a variable with a service's prefix that is no
setting is an error.
"""

import os
import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from shared.errors import TandemError

S = TypeVar("S", bound=BaseSettings)

# What Kubernetes puts into every pod for each Service of its namespace, after the Service's name.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")
_LINKED_PORT = re.compile(r"(tcp|udp|sctp)://")


def refuse_unknown(settings: type[BaseSettings], environ: Mapping[str, str] = os.environ) -> None:
    """Stop the process, naming every variable that starts with the settings' prefix but is none
    of them.
    """
    prefix = settings.model_config.get("env_prefix", "")
    known = {f"{prefix}{name}".upper() for name in settings.model_fields}
    given = {n: value for n, value in environ.items() if n.upper().startswith(prefix)}
    if linked := sorted(n for n in given if _is_service_link(n.upper(), given[n], known)):
        raise SystemExit(
            f"{', '.join(linked)}: set by Kubernetes for a Service whose name makes them look like "
            "settings; set `enableServiceLinks: false` in the pod's spec"
        )
    unknown = sorted(n for n in given if n.upper() not in known)
    if unknown:
        raise SystemExit(
            f"unknown settings: {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )


def _is_service_link(name: str, value: str, known: Set[str]) -> bool:
    if name.endswith("PORT") and _LINKED_PORT.match(value):
        return True
    return name not in known and _SERVICE_LINK.search(name) is not None


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
            # What is wrong with several settings together has no place of its own.
            (f"{prefix}{'.'.join(map(str, each['loc'])).upper()}: " if each["loc"] else "")
            + each["msg"].removeprefix("Value error, ")
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
