"""The committed dashboards as tests read them: every query of every panel, as Grafana sends it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "monitoring" / "grafana" / "dashboards"


@dataclass(frozen=True, slots=True)
class Question:
    """One target of one panel."""

    dashboard: str
    panel: str
    ref: str
    expr: str
    legend: str = ""

    @property
    def name(self) -> str:
        """What a person calls it: dashboard/panel/A."""
        return f"{self.dashboard}/{self.panel}/{self.ref}"

    def sent(self, variables: Mapping[str, str]) -> str:
        """The query with its variables filled in."""
        query = self.expr
        for name, value in variables.items():
            query = query.replace(f"${name}", value)
        return query


def dashboards() -> dict[str, dict[str, Any]]:
    """Every committed dashboard by the name of its file."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, also those of folded rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", ())
        else:
            yield panel


def offered() -> dict[str, tuple[str, str]]:
    """What a variable of a dashboard offers: the values of a label, of what a selector finds."""
    found: dict[str, tuple[str, str]] = {}
    for name, dashboard in dashboards().items():
        for variable in dashboard["templating"]["list"]:
            selector, _, label = (
                str(variable["query"]).partition("label_values(")[2].rpartition(",")
            )
            found[f"{name}/{variable['name']}"] = (label.strip(" )"), selector)
    return found


def questions() -> list[Question]:
    """Every query of every dashboard."""
    return [
        Question(
            name, panel["title"], target["refId"], target["expr"], target.get("legendFormat", "")
        )
        for name, dashboard in dashboards().items()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]
