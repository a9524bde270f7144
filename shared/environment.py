"""Strictness that pydantic-settings leaves out: a variable with a service's prefix that is no
setting is an error.
"""

import os
from collections.abc import Mapping

from pydantic_settings import BaseSettings


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
