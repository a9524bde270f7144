"""The Prometheus rules as one object of the Prometheus operator: `python -m monitoring.rules` puts
it there from prometheus/rules, where Compose and the fleet overlay take them; a test compares.
"""

from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parent / "prometheus" / "rules"
FILE = Path(__file__).parents[1] / "k8s" / "components" / "prometheus-operator" / "rules.yaml"
HEAD = "# Written by `python -m monitoring.rules` from monitoring/prometheus/rules.\n"


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def groups() -> list[dict[str, Any]]:
    """Every group of rules, in the order of the files' names."""
    return [
        group
        for file in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(file.read_text())["groups"]
    ]


def written() -> str:
    """The object's file."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tandem", "labels": {"app.kubernetes.io/name": "tandem"}},
        "spec": {"groups": groups()},
    }
    return HEAD + yaml.dump(rule, Dumper=_Dumper, sort_keys=False, width=100)


if __name__ == "__main__":
    FILE.write_text(written())
