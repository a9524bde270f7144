"""The pods of the `fleet` overlay, run for real: two edges, one cloud, Redis, Prometheus, and the
load Job to its end.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.repo.tree import ROOT
from tests.support.compose import kubectl, podman
from tests.support.pods import Machine, Pod, machine, pods
from tests.support.prometheus import Prometheus, eventually

EDGES = 2


@pytest.fixture(scope="module")
def plan(images: tuple[str, ...]) -> list[Pod]:
    """The overlay's pods, their images in podman's store."""
    rendered = kubectl("kustomize", str(ROOT / "k8s" / "overlays" / "fleet"))
    planned = pods(list(yaml.safe_load_all(rendered)), {"edge": EDGES})
    for image in {image for pod in planned for image in pod.images}:
        podman("pull", "--quiet", f"docker-daemon:{image}")
    return planned


@pytest.fixture(scope="module")
def fleet(plan: list[Pod], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Everything of the overlay but the Job, running and ready."""
    with machine("tandem-fleet", tmp_path_factory.mktemp("pods"), plan) as here:
        order = ("redis", "cloud", "edge", "prometheus")
        for component in order:
            for pod in _of(plan, component):
                here.start(pod)
        yield here


def _of(plan: list[Pod], component: str) -> list[Pod]:
    return [pod for pod in plan if pod.component == component]


@pytest.fixture(scope="module")
def report(plan: list[Pod], fleet: Machine) -> dict[str, Any]:
    """What the load Job printed, once it was over."""
    (job,) = _of(plan, "load")
    fleet.start(job)
    assert fleet.wait(job) == 0, fleet.log(job)
    told = fleet.log(job)
    found: dict[str, Any] = json.loads(told[told.index("{") :])
    return found


def test_the_load_finds_every_edge_and_no_request_fails(
    plan: list[Pod],
    fleet: Machine,
    report: dict[str, Any],
    record_figure: Callable[[str, object], None],
) -> None:
    addresses = {f"{fleet.address(pod)}:8000" for pod in _of(plan, "edge")}
    assert set(report["edges"]) == addresses
    assert not report["total"]["errors"]
    for name, summary in report["edges"].items():
        record_figure(f"edge {name}: tokens/s", round(summary["tokens_per_second"], 1))
        record_figure(f"edge {name}: offload ratio", round(summary["offload_ratio"], 3))
        assert summary["tokens"] > 0


def test_its_prometheus_counts_what_the_job_counted(
    plan: list[Pod], fleet: Machine, report: dict[str, Any]
) -> None:
    (pod,) = _of(plan, "prometheus")
    prometheus = Prometheus(f"http://{fleet.address(pod)}:9090")
    query = 'sum by (edge) (tandem_tokens_total{job="edge"})'
    offered = {name: sum(s["tokens_by_source"].values()) for name, s in report["edges"].items()}
    eventually(
        lambda: prometheus.values(query, "edge"), lambda counted: counted == offered, seconds=45
    )
    assert set(prometheus.values("tandem:offload_ratio:rate5m", "edge")) == set(offered)


def test_every_pod_ends_cleanly_when_told_to(plan: list[Pod], fleet: Machine) -> None:
    for component in ("edge", "cloud", "prometheus", "redis"):
        for pod in _of(plan, component):
            assert fleet.stop(pod) == [0] * len(pod.containers), pod.name
