"""The tables of `docs/operations.md`, made from the code: every setting from the services' settings
and the comments above them, every metric from the services' registries.

`python -m tests.support.tables` writes them between the markers of the document; a test compares.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prometheus_client import CollectorRegistry
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from services.cloud.metrics import CloudMetrics
from services.cloud.settings import Settings as CloudSettings
from services.edge.metrics import EdgeMetrics
from services.edge.settings import Settings as EdgeSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
MARKED = re.compile(r"(<!-- table: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
# The text format's name of a metric, beyond the one it is declared by.
SUFFIXES = {"counter": "_total", "info": "_info"}


def settings_table(settings: type[BaseSettings]) -> str:
    """A row per setting: variable, default, meaning."""
    prefix, meanings = settings.model_config.get("env_prefix", ""), _comments(settings)
    rows = [
        (f"`{prefix}{name.upper()}`", _default(name, field), meanings[name] + _choices(field))
        for name, field in settings.model_fields.items()
    ]
    return _table(("variable", "default", "meaning"), rows)


def metrics_table(metrics: Callable[[CollectorRegistry], object]) -> str:
    """A row per metric: name, type, labels, meaning."""
    registry = CollectorRegistry()
    metrics(registry)
    rows = [
        (
            f"`{family.name}{SUFFIXES.get(family.type, '')}`",
            family.type,
            ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ())),
            family.documentation,
        )
        for collector in registry._collector_to_names
        for family in collector.collect()
    ]
    return _table(("metric", "type", "labels", "meaning"), sorted(rows))


TABLES: Mapping[str, Callable[[], str]] = {
    "edge settings": lambda: settings_table(EdgeSettings),
    "cloud settings": lambda: settings_table(CloudSettings),
    "edge metrics": lambda: metrics_table(EdgeMetrics),
    "cloud metrics": lambda: metrics_table(CloudMetrics),
}


def written(document: str) -> str:
    """The document with every marked table made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", document)


def _comments(settings: type[BaseSettings]) -> dict[str, str]:
    """What the comment above each field says."""
    source = inspect.getsource(settings)
    lines = source.splitlines()
    (declared,) = ast.parse(source).body
    assert isinstance(declared, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(_above(lines, field.lineno - 1))
        for field in declared.body
        if isinstance(field, ast.AnnAssign)
    }


def _above(lines: list[str], line: int) -> Iterator[str]:
    first = line
    while lines[first - 1].strip().startswith("#"):
        first -= 1
    for comment in lines[first:line]:
        yield comment.strip().removeprefix("#").strip()


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "unset"
    if field.default == "":
        return "empty"
    for size, unit in UNITS if name.endswith("bytes") else ():
        if field.default % size == 0:
            return f"`{field.default}` ({field.default // size} {unit})"
    return f"`{field.default}`"


def _choices(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) is not Literal:
        return ""
    return f" One of {', '.join(f'`{choice}`' for choice in get_args(kind))}."


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
