"""The settings a prompt is asked in: a mode and what a request says beside it, by its name.

A name is its own spelling: `collaborative, 0.8` is mode collaborative with threshold 0.8, and
`split, int8` is mode split with codec int8. It knows no services.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from cli.errors import CommandError

MODES = ("cloud", "split", "collaborative", "verified", "standalone")
CODECS = ("fp32", "fp16", "int8")
NAMES = (
    "cloud",
    "split, fp32",
    "split, fp16",
    "split, int8",
    "collaborative, default",
    "collaborative, int8",
    "collaborative, 0.7",
    "collaborative, 0.8",
    "collaborative, 0.9",
    "verified",
    "standalone",
)


# What is measured is greedy text: with these the full model would write another for each setting.
CHOOSING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_new_tokens",
    "seed",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A name as it stands in the table, and the `parameters` of its requests."""

    name: str
    parameters: Mapping[str, object]


def setting(name: str) -> Setting:
    """Read a name: a mode, then in any order a threshold, a codec, `default`, `parameter=value`.

    Raises:
        CommandError: it names no mode, or something that is none of these.
    """
    mode, *parts = (part.strip() for part in name.split(","))
    if mode not in MODES:
        raise CommandError(f"setting {name!r}: a setting begins with one of {', '.join(MODES)}")
    parameters: dict[str, object] = {"mode": mode}
    for part in parts:
        parameters.update(_part(name, part))
    return Setting(", ".join((mode, *parts)), parameters)


def _part(name: str, part: str) -> dict[str, object]:
    if part == "default":
        return {}
    if part in CODECS:
        return {"codec": part}
    key, sign, value = (each.strip() for each in part.partition("="))
    if key in CHOOSING:
        raise CommandError(
            f"setting {name!r}: texts are held against what the model writes greedily, and {key} "
            "has others written"
        )
    if sign:
        return {key: _value(value)}
    try:
        return {"threshold": float(part)}
    except ValueError as error:
        raise CommandError(
            f"setting {name!r}: {part!r} is no threshold, no codec ({', '.join(CODECS)}) and no "
            "parameter=value"
        ) from error


def _value(text: str) -> object:
    """As JSON where it is, else as it stands: `repair=true`, `on_cloud_loss=error`."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value
