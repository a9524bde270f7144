"""Tokens of a compose stack's edges, as the edges tell them and as Prometheus counts them."""

from collections import Counter
from collections.abc import Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.compose import Compose
from tests.support.prometheus import Prometheus


def tokens_told(stack: Compose, edges: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Tokens (from the cloud, in all) by edge, as the edges themselves have them now."""
    told = {}
    for name in edges:
        port = stack.variables[f"{name.upper().replace('-', '_')}_PORT"]
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        tokens = [
            (sample.labels["source"], int(sample.value))
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "tandem_tokens_total"
        ]
        told[name] = (
            sum(n for source, n in tokens if source == "cloud"),
            sum(n for _, n in tokens),
        )
    return told


def tokens_counted(prometheus: Prometheus, edges: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Tokens (from the cloud, in all) by edge, as Prometheus has them now."""
    total = 'sum by (edge) (tandem_tokens_total{job="edge"%s})'
    cloud = prometheus.values(total % ',source="cloud"', "edge")
    every = prometheus.values(total % "", "edge")
    return {name: (int(cloud.get(name, 0)), int(every.get(name, 0))) for name in edges}


def offload_window(prometheus: Prometheus, edges: Sequence[str]) -> dict[str, float]:
    """The cloud's share of the tokens of the last five minutes by edge, from the bare samples."""
    told = prometheus.api("query", query='tandem_tokens_total{job="edge"}[5m]')["result"]
    grown: Counter[tuple[str, bool]] = Counter()
    for series in told:
        labels, (_, first), (_, last) = series["metric"], series["values"][0], series["values"][-1]
        grown[labels["edge"], labels["source"] == "cloud"] += int(float(last) - float(first))
    return {name: grown[name, True] / (grown[name, True] + grown[name, False]) for name in edges}
