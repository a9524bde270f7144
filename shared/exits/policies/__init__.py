"""The exit policies by name: every module of this folder holds one, and is found by being here.

To add one, add a file with a frozen dataclass that is a `Policy`; the module's name is the
policy's.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any, get_type_hints

from shared.exits.policy import Policy, Thresholds


@cache
def policies() -> Mapping[str, type[Policy]]:
    """Every policy there is, by its name, in alphabetical order."""
    return MappingProxyType(
        {name: _policy_in(name) for name in sorted(each.name for each in iter_modules(__path__))}
    )


def build(name: str, numbers: Mapping[str, Any]) -> Policy:
    """Make a policy of plain values, as JSON has them: thresholds may have strings for layers.

    `build("per_exit", {"thresholds": {"3": 0.8, "6": 0.7}})`

    Raises:
        ValueError: there is no such policy, or a number is missing, unknown or out of its range;
            the message names it.
    """
    if name not in policies():
        raise ValueError(f"exit policy {name!r} is none of {', '.join(policies())}")
    kind = policies()[name]
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    wanted = {each.name for each in known.values() if each.default is MISSING}
    for problem, names in (
        ("has no", numbers.keys() - known.keys()),
        ("needs", wanted - numbers.keys()),
    ):
        if names:
            raise ValueError(f"exit policy {name} {problem} {' and '.join(sorted(names))}")
    kinds = get_type_hints(kind)
    try:
        return kind(**{key: _converted(key, value, kinds[key]) for key, value in numbers.items()})
    except ValueError as error:
        raise ValueError(f"exit policy {name}: {error}") from error


def _policy_in(name: str) -> type[Policy]:
    module = import_module(f"{__name__}.{name}")
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Policy)
        and each.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} holds {len(found)} policies; it must hold one")
    return found[0]


def _converted(name: str, value: object, kind: object) -> object:
    """A number, or thresholds by layer, of what JSON has; refused where it is another thing."""
    if kind == Thresholds:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} is {value!r}; allowed: a threshold for each layer")
        return {_layer(layer): _number(name, each, float) for layer, each in value.items()}
    return _number(name, value, int if kind is int else float)


def _number(name: str, value: object, kind: type[int] | type[float]) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        raise ValueError(
            f"{name} is {value!r}; allowed: {'a whole' if kind is int else 'a'} number"
        )
    return kind(value)


def _layer(layer: object) -> int:
    try:
        return int(str(layer))
    except ValueError as error:
        raise ValueError(f"{layer!r} is no layer") from error
