"""The manifests: valid for three releases of Kubernetes, consistent, confined, and in agreement
with the compose file and the code.
"""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from monitoring import rules
from tests.repo.tree import ROOT
from tests.support.kubernetes import (
    COMPONENTS,
    KUBERNETES,
    OVERLAYS,
    WORKLOADS,
    Manifest,
    named,
    needs_kubectl,
    of_kind,
    rendered,
    template,
)
from tests.support.settings import SETTINGS, variable

pytestmark = needs_kubectl

RELEASES = ("1.35", "1.36", "1.37")
OPERATOR = "monitoring.coreos.com/v1"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
COMBINATIONS = [
    *((overlay,) for overlay in OVERLAYS),
    *((overlay, component) for overlay in OVERLAYS for component in COMPONENTS),
    *((overlay, *COMPONENTS) for overlay in OVERLAYS),
]

each_combination = pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def _pods(objects: tuple[Manifest, ...]) -> list[tuple[str, Manifest, Manifest]]:
    """(component, pod spec, workload) of every workload."""
    return [
        (
            template(each)["metadata"]["labels"]["app.kubernetes.io/component"],
            template(each)["spec"],
            each,
        )
        for each in of_kind(objects, *WORKLOADS)
    ]


def test_every_overlay_and_component_promised_is_there() -> None:
    assert {"fleet", "gpu", "jetson", "local"} == set(OVERLAYS)
    assert {"model-volume", "prometheus-operator"} == set(COMPONENTS)


@each_combination
def test_it_is_valid_strictly_for_the_newest_releases(combination: tuple[str, ...]) -> None:
    for manifest in rendered(*combination):
        if manifest["apiVersion"] != OPERATOR:
            for release in RELEASES:
                kubernetes_validate.validate(manifest, release, strict=True)


@each_overlay
def test_every_object_is_in_the_namespace_and_belongs_to_tandem(overlay: str) -> None:
    for manifest in rendered(overlay):
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "tandem", manifest
        if manifest["kind"] not in ("NetworkPolicy", "ConfigMap", "Secret"):
            assert manifest["metadata"]["labels"]["app.kubernetes.io/name"] == "tandem", manifest


@each_combination
def test_every_selector_finds_its_pods(combination: tuple[str, ...]) -> None:
    objects = rendered(*combination)
    labels = [template(each)["metadata"]["labels"] for each in of_kind(objects, *WORKLOADS)]
    selectors = [each["spec"]["selector"] for each in of_kind(objects, "Service")]
    selectors += [
        each["spec"]["selector"]["matchLabels"]
        for each in of_kind(
            objects, "Deployment", "StatefulSet", "DaemonSet", "PodDisruptionBudget", "PodMonitor"
        )
    ]
    selectors += [
        each["spec"]["podSelector"].get("matchLabels", {})
        for each in of_kind(objects, "NetworkPolicy")
    ]
    for selector in selectors:
        assert any(selector.items() <= each.items() for each in labels), selector


@each_combination
def test_everything_a_pod_refers_to_is_there(combination: tuple[str, ...]) -> None:
    objects = rendered(*combination)
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for component, spec, workload in _pods(objects):
        claims = workload["spec"].get("volumeClaimTemplates", ())
        volumes = {each["name"] for each in spec["volumes"]}
        volumes |= {each["metadata"]["name"] for each in claims}
        mounted = {each["name"] for c in spec["containers"] for each in c["volumeMounts"]}
        assert mounted == volumes, component
        wanted = {("ServiceAccount", spec["serviceAccountName"])}
        for volume in spec["volumes"]:
            wanted |= (
                {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
            )
            wanted |= {("Secret", volume["secret"]["secretName"])} if "secret" in volume else set()
        for container in spec["containers"]:
            for source in container.get("envFrom", ()):
                wanted.add(("ConfigMap", source["configMapRef"]["name"]))
        assert wanted <= there, component


@each_overlay
def test_every_port_named_is_a_port_of_the_pods_behind_it(overlay: str) -> None:
    objects = rendered(overlay)
    for service in of_kind(objects, "Service"):
        wanted = {port["targetPort"] for port in service["spec"]["ports"]}
        for workload in of_kind(objects, *WORKLOADS):
            labels = template(workload)["metadata"]["labels"]
            if service["spec"]["selector"].items() <= labels.items():
                ports = template(workload)["spec"]["containers"][0]["ports"]
                assert wanted <= {port["name"] for port in ports}


@each_combination
def test_every_setting_exists_in_the_code(combination: tuple[str, ...]) -> None:
    known = {variable(side, name) for side, fields in SETTINGS.items() for name in fields}
    objects = rendered(*combination)
    given = {
        name for each in of_kind(objects, "ConfigMap") for name in each["data"] if name.isupper()
    }
    for _, spec, _ in _pods(objects):
        given |= {each["name"] for c in spec["containers"] for each in c.get("env", ())}
    assert given, "nothing was looked at"
    assert {name for name in given if name.startswith("TANDEM_")} <= known


@each_combination
def test_every_pod_meets_the_restricted_standard_and_more(combination: tuple[str, ...]) -> None:
    for component, spec, _ in _pods(rendered(*combination)):
        assert spec["securityContext"]["runAsNonRoot"], component
        assert spec["securityContext"]["runAsUser"] == 10001, component
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
        assert spec["automountServiceAccountToken"] is False, component
        assert spec["enableServiceLinks"] is False, component
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, component
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), component
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), component


@each_overlay
def test_a_server_has_all_three_probes_and_time_to_end(overlay: str) -> None:
    objects = rendered(overlay)
    for component, spec, workload in _pods(objects):
        if workload["kind"] == "Job":
            continue
        (container,) = spec["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), component
        if component in SETTINGS:
            grace = int(
                named(objects, "ConfigMap", f"{component}-settings")["data"][
                    variable(component, "grace_seconds")
                ]
            )
            pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert spec["terminationGracePeriodSeconds"] > grace + pause
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


@each_overlay
def test_what_must_not_speak_is_denied(overlay: str) -> None:
    objects = rendered(overlay)
    deny = named(objects, "NetworkPolicy", "deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    callers = named(objects, "NetworkPolicy", "redis")["spec"]["ingress"][0]["from"]
    (allowed,) = (each["podSelector"]["matchLabels"] for each in callers)
    assert allowed["app.kubernetes.io/component"] == "cloud"


@each_overlay
def test_the_autoscaler_and_nobody_else_sets_the_replicas_of_the_cloud(overlay: str) -> None:
    objects = rendered(overlay)
    cloud = named(objects, "Deployment", "cloud")
    scaled = [
        each["spec"]["scaleTargetRef"] for each in of_kind(objects, "HorizontalPodAutoscaler")
    ]
    assert scaled in ([], [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "cloud"}])
    assert ("replicas" in cloud["spec"]) == (not scaled)


def test_compose_and_kubernetes_agree_on_names_ports_and_images() -> None:
    objects = rendered("fleet")
    for name in ("edge", "cloud", "redis", "prometheus"):
        (port,) = named_service(objects, name)["spec"]["ports"]
        compose = COMPOSE[name]
        exposed = {
            int(str(each).rpartition(":")[2])
            for key in ("expose", "ports")
            for each in compose.get(key, ())
        }
        assert exposed == {port["port"]}, name
        (workload,) = (w for c, _, w in _pods(objects) if c == name)
        image = template(workload)["spec"]["containers"][0]["image"]
        assert compose["image"].endswith(f":-{image}}}"), name
    (load,) = (spec["containers"][0]["image"] for c, spec, _ in _pods(objects) if c == "load")
    assert COMPOSE["load"]["image"].endswith(f":-{load}}}")


def named_service(objects: tuple[Manifest, ...], name: str) -> Manifest:
    """The Service of exactly that name."""
    (found,) = (e for e in of_kind(objects, "Service") if e["metadata"]["name"] == name)
    return found


def test_compose_and_kubernetes_tell_the_edge_of_the_same_cloud() -> None:
    url = named(rendered("fleet"), "ConfigMap", "edge-settings")["data"]["TANDEM_EDGE_CLOUD_URL"]
    assert COMPOSE["edge"]["environment"]["TANDEM_EDGE_CLOUD_URL"].endswith(f":-{url}}}")


def test_a_fleet_is_as_many_edges_as_one_number_says() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "overlays/fleet/kustomization.yaml").read_text())
    ((edges),) = [each for each in kustomization["replicas"] if each["name"] == "edge"]
    assert named(rendered("fleet"), "Deployment", "edge")["spec"]["replicas"] == edges["count"]
    scraped = named(rendered("fleet"), "ConfigMap", "prometheus-settings")["data"]["prometheus.yml"]
    jobs = {each["job_name"]: each for each in yaml.safe_load(scraped)["scrape_configs"]}
    assert jobs["edge"]["dns_sd_configs"][0]["names"] == ["edges"]
    (job,) = of_kind(rendered("fleet"), "Job")
    arguments = template(job)["spec"]["containers"][0]["args"]
    assert {"--edge=http://edges:8000", "--discover"} <= set(arguments)


def test_kubernetes_has_the_rules_compose_has() -> None:
    held = named(rendered("fleet"), "ConfigMap", "prometheus-rules")["data"]
    found = [group for file in sorted(held) for group in yaml.safe_load(held[file])["groups"]]
    (rule,) = of_kind(rendered("local", "prometheus-operator"), "PrometheusRule")
    assert found == rule["spec"]["groups"] == rules.groups()
    assert rules.FILE.read_text() == rules.written(), "run `python -m monitoring.rules`"


def test_another_model_comes_by_a_volume_and_one_setting() -> None:
    objects = rendered("local", "model-volume")
    for side in SETTINGS:
        settings = named(objects, "ConfigMap", f"{side}-settings")["data"]
        assert settings[variable(side, "bundle")] == f"/models/{side}"
        (spec,) = (spec for component, spec, _ in _pods(objects) if component == side)
        mounts = {each["mountPath"]: each["name"] for each in spec["containers"][0]["volumeMounts"]}
        (volume,) = (each for each in spec["volumes"] if each["name"] == mounts["/models"])
        assert volume["persistentVolumeClaim"]["claimName"] == "models"


def test_a_jetson_has_one_edge() -> None:
    objects = rendered("jetson")
    edge = template(named(objects, "DaemonSet", "edge"))["spec"]
    assert edge["runtimeClassName"] == "nvidia"
    assert edge["nodeSelector"]["kubernetes.io/arch"] == "arm64"


def test_gpus_are_asked_for_where_they_are_used() -> None:
    objects = rendered("gpu")
    for side in SETTINGS:
        (spec,) = (spec for component, spec, _ in _pods(objects) if component == side)
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
        settings = named(objects, "ConfigMap", f"{side}-settings")["data"]
        assert settings[variable(side, "device")] == "cuda"
