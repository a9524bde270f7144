"""The manifests: valid for three releases of Kubernetes, consistent, and in agreement with the
compose file and the code. What confines the pods is in test_kubernetes_confinement.
"""

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from monitoring import rules
from shared.runtime.lifecycle import LAST_SECONDS
from tests.repo.tree import ROOT
from tests.support.kubernetes import (
    COMPONENTS,
    KUBERNETES,
    OVERLAYS,
    WORKLOADS,
    containers,
    each_combination,
    each_overlay,
    named,
    needs_kubectl,
    of_kind,
    pods,
    rendered,
    service,
    template,
)
from tests.support.settings import SETTINGS, variable

pytestmark = needs_kubectl

RELEASES = ("1.35", "1.36", "1.37")
# Secrets that whoever runs it makes with kubectl: changing them changes no pod.
OUTSIDE = {("Secret", "edge-keys"), ("Secret", "cloud-keys"), ("Secret", "load-key")}
MARGIN = 5  # seconds for what an end takes besides, on a busy machine
OPERATOR = "monitoring.coreos.com/v1"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_every_overlay_and_component_promised_is_there() -> None:
    assert {"fleet", "gpu", "jetson", "local"} == set(OVERLAYS)
    assert {"keys", "model-volume", "prometheus-operator"} == set(COMPONENTS)


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
        if manifest["kind"] not in ("ConfigMap", "Secret"):
            assert manifest["metadata"]["labels"]["app.kubernetes.io/name"] == "tandem", manifest


@each_combination
def test_every_selector_finds_itspods(combination: tuple[str, ...]) -> None:
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
    for component, spec, workload in pods(objects):
        claims = workload["spec"].get("volumeClaimTemplates", ())
        volumes = {each["name"] for each in spec["volumes"]}
        volumes |= {each["metadata"]["name"] for each in claims}
        mounted = {each["name"] for c in containers(spec) for each in c.get("volumeMounts", ())}
        assert mounted == volumes, component
        wanted = {("ServiceAccount", spec["serviceAccountName"])}
        for volume in spec["volumes"]:
            wanted |= (
                {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
            )
            wanted |= {("Secret", volume["secret"]["secretName"])} if "secret" in volume else set()
        for container in containers(spec):
            for source in container.get("envFrom", ()):
                for reference, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                    wanted |= {(kind, source[reference]["name"])} if reference in source else set()
        assert wanted - there <= OUTSIDE, component


def test_secrets_made_outside_are_told_of_where_they_are_asked_for() -> None:
    told = (KUBERNETES / "components/keys/kustomization.yaml").read_text().split("apiVersion")[0]
    for _, secret in OUTSIDE:
        assert f"create secret generic {secret} " in told


def test_with_keys_no_stranger_is_served() -> None:
    for component, spec, _ in pods(rendered("fleet", "keys")):
        (container,) = containers(spec)[-1:]
        told = {each["name"]: each.get("value") for each in container.get("env", ())}
        if component in ("edge", "cloud"):
            prefix = f"TANDEM_{component.upper()}_"
            assert told[f"{prefix}WITHOUT_KEY"] == "metrics"
            mounts = {
                each["mountPath"] for each in container["volumeMounts"] if each.get("readOnly")
            }
            assert str(Path(told[f"{prefix}KEYS_FILE"]).parent) in mounts
        elif component == "load":
            assert "TANDEM_KEY" in told


@each_overlay
def test_every_port_named_is_a_port_of_the_pods_behind_it(overlay: str) -> None:
    objects = rendered(overlay)
    for each in of_kind(objects, "Service"):
        wanted = {port["targetPort"] for port in each["spec"]["ports"]}
        for workload in of_kind(objects, *WORKLOADS):
            labels = template(workload)["metadata"]["labels"]
            if each["spec"]["selector"].items() <= labels.items():
                ports = template(workload)["spec"]["containers"][0]["ports"]
                assert wanted <= {port["name"] for port in ports}


@each_combination
def test_every_setting_exists_in_the_code(combination: tuple[str, ...]) -> None:
    known = {variable(side, name) for side, fields in SETTINGS.items() for name in fields}
    objects = rendered(*combination)
    given = {
        name
        for each in of_kind(objects, "ConfigMap", "Secret")
        for name in each["data"]
        if name.isupper()
    }
    for _, spec, _ in pods(objects):
        given |= {each["name"] for c in containers(spec) for each in c.get("env", ())}
    assert given, "nothing was looked at"
    # The load generator's own.
    assert {name for name in given if name.startswith("TANDEM_")} <= known | {"TANDEM_KEY"}


@each_overlay
def test_a_server_has_all_three_probes_and_time_to_end(overlay: str) -> None:
    objects = rendered(overlay)
    for component, spec, workload in pods(objects):
        if workload["kind"] == "Job":
            continue
        (container,) = spec["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), component
        if component in SETTINGS:
            given = named(objects, "ConfigMap", f"{component}-settings")["data"]
            drain, grace = (
                int(given[variable(component, name)]) for name in ("drain_seconds", "grace_seconds")
            )
            # A pod leaves its Service while it has its signal: nothing may fail meanwhile.
            assert drain > 0
            assert spec["terminationGracePeriodSeconds"] >= drain + grace + LAST_SECONDS + MARGIN
            assert "lifecycle" not in container
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


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
        (port,) = service(objects, name)["spec"]["ports"]
        compose = COMPOSE[name]
        exposed = {
            int(str(each).rpartition(":")[2])
            for key in ("expose", "ports")
            for each in compose.get(key, ())
        }
        assert exposed == {port["port"]}, name
        (workload,) = (w for c, _, w in pods(objects) if c == name)
        image = template(workload)["spec"]["containers"][0]["image"]
        assert compose["image"].endswith(f":-{image}}}"), name
    (load,) = (
        {each["image"] for each in containers(spec)} for c, spec, _ in pods(objects) if c == "load"
    )
    assert {COMPOSE["load"]["image"].partition(":-")[2].rstrip("}")} == load


def test_compose_and_kubernetes_tell_the_edge_of_the_same_cloud() -> None:
    url = named(rendered("fleet"), "ConfigMap", "edge-settings")["data"]["TANDEM_EDGE_CLOUD_URL"]
    assert COMPOSE["edge"]["environment"]["TANDEM_EDGE_CLOUD_URL"].endswith(f"-{url}}}")


@each_overlay
def test_what_kubernetes_sets_can_be_set_with_compose(overlay: str) -> None:
    for side in SETTINGS:
        given = named(rendered(overlay), "ConfigMap", f"{side}-settings")["data"]
        assert given.keys() <= COMPOSE[side]["environment"].keys()


def test_a_fleet_is_as_many_edges_as_one_number_says() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "overlays/fleet/kustomization.yaml").read_text())
    ((edges),) = [each for each in kustomization["replicas"] if each["name"] == "edge"]
    assert named(rendered("fleet"), "Deployment", "edge")["spec"]["replicas"] == edges["count"]
    (job,) = of_kind(rendered("fleet"), "Job")
    arguments = template(job)["spec"]["containers"][0]["args"]
    assert {"--edge=http://edges:8000", "--discover"} <= set(arguments)


def test_prometheus_finds_every_pod_and_an_edge_those_that_are_ready() -> None:
    objects = rendered("fleet")
    scraped = named(objects, "ConfigMap", "prometheus-settings")["data"]["prometheus.yml"]
    jobs = {each["job_name"]: each for each in yaml.safe_load(scraped)["scrape_configs"]}
    for side, every in (("edge", "edges"), ("cloud", "clouds")):
        asked = service(objects, every)["spec"]
        assert asked["clusterIP"] == "None"
        assert asked["publishNotReadyAddresses"]
        assert "publishNotReadyAddresses" not in service(objects, side)["spec"]
        (found,) = jobs[side]["dns_sd_configs"]
        assert (found["names"], found["port"]) == ([every], asked["ports"][0]["port"])


def test_the_operator_scrapes_what_prometheus_scrapes_under_the_same_labels() -> None:
    objects = rendered("local", "prometheus-operator")
    for side, label in (("edge", "edge"), ("cloud", "replica")):
        monitor = named(objects, "PodMonitor", side)["spec"]
        (endpoint,) = monitor["podMetricsEndpoints"]
        assert endpoint["port"] in {
            port["name"] for port in service(objects, side)["spec"]["ports"]
        }
        assert endpoint["relabelings"] == [
            {"targetLabel": "job", "replacement": side},
            {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": label},
        ]


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
        (spec,) = (spec for component, spec, _ in pods(objects) if component == side)
        mounts = {each["mountPath"]: each["name"] for each in spec["containers"][0]["volumeMounts"]}
        (volume,) = (each for each in spec["volumes"] if each["name"] == mounts["/models"])
        assert volume["persistentVolumeClaim"]["claimName"] == "models"


def test_a_jetson_has_one_edge() -> None:
    objects = rendered("jetson")
    edge = template(named(objects, "DaemonSet", "edge"))["spec"]
    assert edge["nodeSelector"]["kubernetes.io/arch"] == "arm64"


def test_an_edge_may_use_its_jetsons_gpu() -> None:
    edge = template(named(rendered("jetson"), "DaemonSet", "edge"))["spec"]
    # All three are needed for a GPU that no device plugin hands out.
    assert edge["runtimeClassName"] == "nvidia"
    (container,) = edge["containers"]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"} in container["env"]
    assert edge["securityContext"]["supplementalGroups"] == [44]


def test_gpus_are_asked_for_where_they_are_used() -> None:
    objects = rendered("gpu")
    for side in SETTINGS:
        (spec,) = (spec for component, spec, _ in pods(objects) if component == side)
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
        settings = named(objects, "ConfigMap", f"{side}-settings")["data"]
        assert settings[variable(side, "device")] == "cuda"
