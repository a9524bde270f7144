"""The rules are valid to Prometheus' own tool, ask for metrics that exist, and every alert is tried
and explained."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from services.cloud.metrics import CloudMetrics
from services.edge.metrics import EdgeMetrics
from tests.repo.tree import ROOT
from tests.support.dashboards import dashboards, panels
from tests.support.settings import SETTINGS, variable
from tests.support.tools import required

FOLDER = ROOT / "monitoring" / "prometheus"
RULE_FILES = sorted((FOLDER / "rules").glob("*.yml"))
TEST_FILES = sorted((FOLDER / "tests").glob("*.yml"))
GUIDE = "docs/alerts.md"
SEVERITIES = {"critical", "warning", "info"}
ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}

Rule = dict[str, Any]


def _rules(kind: str) -> Iterator[Rule]:
    for file in RULE_FILES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from (rule for rule in group["rules"] if kind in rule)


ALERTS: dict[str, Rule] = {rule["alert"]: rule for rule in _rules("alert")}
RECORDED: dict[str, Rule] = {rule["record"]: rule for rule in _rules("record")}
each_alert = pytest.mark.parametrize("alert", ALERTS)


@pytest.fixture(scope="module")
def promtool() -> str:
    """Prometheus' tool; CI has it."""
    return required("promtool", "prometheus")


def _accepts(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_rules(promtool: str) -> None:
    _accepts(promtool, "check", "rules", *RULE_FILES)


def test_the_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    _accepts(promtool, "test", "rules", *TEST_FILES)


def test_prometheus_accepts_the_configuration(promtool: str, tmp_path: Path) -> None:
    there, here = "/etc/prometheus/rules", str(FOLDER / "rules")
    text = (FOLDER / "prometheus.yml").read_text()
    assert text.count(there) == 1
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(text.replace(there, here))
    _accepts(promtool, "check", "config", configuration)


def test_every_alert_has_a_name_of_its_own() -> None:
    assert len(list(_rules("alert"))) == len(ALERTS)


@each_alert
def test_an_alert_waits_and_says_what_is_wrong_how_badly_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert re.fullmatch(r"Tandem[A-Za-z]+", alert)
    assert re.fullmatch(r"[1-9]\d*m", rule["for"])
    assert rule["labels"]["severity"] in SEVERITIES
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"{GUIDE}#{alert.lower()}"


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert list(_sections()) == list(ALERTS)


@each_alert
def test_a_section_says_how_bad_it_is_what_to_look_at_and_what_to_do(alert: str) -> None:
    section = _sections()[alert]
    assert section.startswith(f"{ALERTS[alert]['labels']['severity'].capitalize()}. ")
    assert "- **Look at**:" in section
    assert "- **Do**" in section


def test_what_the_guide_names_exists() -> None:
    guide = " ".join((ROOT / GUIDE).read_text().split())
    metrics = _metrics_of(guide)
    known = _exported()
    bases = {re.sub("_(bucket|sum|count)$", "", name) for name in known}
    assert metrics <= known | bases | set(RECORDED) | {"up"}
    titles = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", guide))
    assert titles <= _titles()
    variables = set(re.findall(r"`(TANDEM_[A-Z_]+)", guide))
    assert variables <= {variable(side, name) for side in SETTINGS for name in SETTINGS[side]}
    for named in (metrics, titles, variables):
        assert named


@pytest.mark.parametrize("rule", [*ALERTS, *RECORDED])
def test_every_metric_a_rule_asks_for_exists(rule: str) -> None:
    asked = _metrics_of({**ALERTS, **RECORDED}[rule]["expr"])
    assert asked
    assert asked <= _exported() | set(RECORDED) | {"up"}


def test_a_recorded_name_says_whose_it_is() -> None:
    assert all(name.startswith("tandem:") for name in RECORDED)


def test_every_alert_is_tried_both_where_it_fires_and_where_it_never_does() -> None:
    fires: set[str] = set()
    never: set[str] = set()
    for file in TEST_FILES:
        for group in yaml.safe_load(file.read_text())["tests"]:
            checks = group["alert_rule_test"]
            fired = {check["alertname"] for check in checks if check["exp_alerts"]}
            fires |= fired
            if file.stem != "idle":
                never |= {check["alertname"] for check in checks} - fired
    assert fires == never == set(ALERTS)


def test_idle_services_are_tried_with_every_alert() -> None:
    for group in yaml.safe_load((FOLDER / "tests" / "idle.yml").read_text())["tests"]:
        checks = group["alert_rule_test"]
        assert {check["alertname"] for check in checks} == set(ALERTS), group["name"]
        assert not any(check["exp_alerts"] for check in checks), group["name"]


def _sections() -> dict[str, str]:
    """The guide's sections by heading, in order."""
    _, *pieces = re.split(r"^## (.+)\n+", (ROOT / GUIDE).read_text(), flags=re.MULTILINE)
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


def _metrics_of(text: str) -> set[str]:
    """The metrics a query or a text names; `up` only before a `{`: it is a word of its own too."""
    return set(re.findall(r"\btandem[_:][\w:]*\w|\bup(?=\{)", text))


def _titles() -> set[str]:
    """What Grafana shows: dashboards, rows and panels."""
    boards = dashboards().values()
    titles = {board["title"].removeprefix("Tandem / ") for board in boards}
    rows = {panel["title"] for board in boards for panel in board["panels"]}
    return titles | rows | {panel["title"] for board in boards for panel in panels(board)}


def _exported() -> set[str]:
    """The names both services' metrics have in PromQL."""
    names: set[str] = set()
    for metrics in (EdgeMetrics, CloudMetrics):
        registry = CollectorRegistry()
        metrics(registry)
        for family in registry.collect():
            names |= {family.name + ending for ending in ENDINGS.get(family.type, ("",))}
    return names
