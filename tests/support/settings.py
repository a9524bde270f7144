"""The settings of both services as the tests of deployment compare them: names and defaults."""

from typing import Any

from pydantic_settings import BaseSettings

from services.cloud.settings import Settings as CloudSettings
from services.edge.settings import Settings as EdgeSettings


def variable(side: str, name: str) -> str:
    """The environment variable of a setting."""
    return f"TANDEM_{side}_{name}".upper()


_SIDES: dict[str, type[BaseSettings]] = {"edge": EdgeSettings, "cloud": CloudSettings}
SETTINGS: dict[str, dict[str, Any]] = {
    side: {name: field.default for name, field in settings.model_fields.items()}
    for side, settings in _SIDES.items()
}
