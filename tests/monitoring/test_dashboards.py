"""The committed dashboards are those the code makes, and each panel tells what it shows."""

import re
from collections import Counter

import pytest
import yaml
from prometheus_client import CollectorRegistry

from monitoring.grafana.__main__ import files
from services.cloud.metrics import CloudMetrics
from services.edge.metrics import EdgeMetrics
from tests.repo.tree import ROOT
from tests.support.dashboards import dashboards, panels, questions

BOARDS = dashboards()
# vLLM's own dashboard, top to bottom; what Tandem has no more of stands in brackets there.
VLLM = (
    "E2E request latency", "Token throughput", "Inter-token latency", "Scheduler state",
    "Time to first token", "Cache utilization", "Request prompt length",
    "Request generation length", "Finish reason", "Queue time",
)  # fmt: skip

# Panels that draw the limit of an alert.
LIMITS = {
    ("fleet", "Time to first token, p95"): "TandemSlowFirstToken",
    ("fleet", "Between tokens, p95"): "TandemSlowTokens",
    ("fleet", "KV cache"): "TandemEdgeKvNearlyFull",
    ("cloud", "Queue time"): "TandemCloudQueueing",
    ("cloud", "Disagreement"): "TandemDisagreementHigh",
}

each_board = pytest.mark.parametrize("board", BOARDS)


def test_the_committed_files_are_what_the_code_writes() -> None:
    written = files()
    assert {file.stem for file in written} == set(BOARDS) == {"overview", "fleet", "cloud"}
    for file, text in written.items():
        assert file.read_text() == text, f"{file}: run `python -m monitoring.grafana`"


def test_the_overview_begins_as_vllms_does() -> None:
    titles = [panel["title"] for panel in panels(BOARDS["overview"])]
    assert tuple(title for title in titles if title in VLLM) == VLLM


@each_board
def test_every_panel_says_what_it_shows_and_in_which_unit(board: str) -> None:
    for panel in panels(BOARDS[board]):
        assert len(panel["description"]) > 10, panel["title"]
        if panel["type"] != "heatmap":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        if panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["min"] == 0, panel["title"]


def test_a_limit_that_is_drawn_is_the_alerts() -> None:
    rules = yaml.safe_load((ROOT / "monitoring/prometheus/rules/alerts.yml").read_text())
    asked = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    drawn = {
        (board, panel["title"]): panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]
        for board in BOARDS
        for panel in panels(BOARDS[board])
        if "thresholdsStyle" in panel["fieldConfig"]["defaults"].get("custom", {})
    }
    assert {place: step["value"] for place, step in drawn.items()} == {
        place: float(asked[alert].rpartition(">")[2]) for place, alert in LIMITS.items()
    }


@each_board
def test_titles_and_ids_are_given_once_and_panels_do_not_overlap(board: str) -> None:
    shown = list(panels(BOARDS[board]))
    for counted in (Counter(p["title"] for p in shown), Counter(p["id"] for p in shown)):
        assert max(counted.values()) == 1
    cells = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in shown)
        for x in range(place.get("x", 0), place.get("x", 0) + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert max(cells.values()) == 1


@each_board
def test_it_reads_the_provisioned_source_and_its_own_variables(board: str) -> None:
    sources = ROOT / "monitoring/grafana/provisioning/datasources/prometheus.yml"
    ((source),) = yaml.safe_load(sources.read_text())["datasources"]
    variables = {each["name"] for each in BOARDS[board]["templating"]["list"]}
    for panel in panels(BOARDS[board]):
        assert panel["datasource"]["uid"] == source["uid"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables, panel["title"]


def test_every_metric_asked_for_exists() -> None:
    known = _exposed() | _recorded() | {"up"}
    for question in questions():
        without_strings = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', "", question.expr)
        asked = set(re.findall(r"tandem[\w:]+|\bup\b", without_strings))
        assert asked, question.name
        assert asked <= known, question.name


def _exposed() -> set[str]:
    names: set[str] = set()
    for metrics in (EdgeMetrics, CloudMetrics):
        registry = CollectorRegistry()
        metrics(registry)
        for family in registry.collect():
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
            names |= {family.name + ending for ending in endings.get(family.type, ("",))}
    return names


def _recorded() -> set[str]:
    rules = yaml.safe_load((ROOT / "monitoring/prometheus/rules/recording.yml").read_text())
    return {rule["record"] for group in rules["groups"] for rule in group["rules"]}
