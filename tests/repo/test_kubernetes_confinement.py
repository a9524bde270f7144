"""What the pods of the manifests may not do: more than the Pod Security Standard `restricted`
allows, speak to whom they have no business with, or hold a secret that is in this repository.
"""

from base64 import b64decode

from tests.support.kubernetes import (
    WORKLOADS,
    Manifest,
    component_of,
    containers,
    each_combination,
    each_overlay,
    named,
    needs_kubectl,
    of_kind,
    pods,
    rendered,
    template,
)

pytestmark = needs_kubectl

# Who speaks to whom inside the namespace, and nobody else does.
TALKS = {("edge", "cloud"), ("cloud", "redis")}
WATCHED = {("prometheus", "edge"), ("prometheus", "cloud"), ("load", "edge")}
VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}


def _selects(selector: Manifest, labels: Manifest) -> bool:
    wanted: Manifest = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _allowed(
    policies: list[Manifest], way: str, who: Manifest, peer: Manifest, listens: set[str]
) -> bool:
    """Whether a rule of `who` lets it speak with `peer` where that, or it, listens."""
    rules, peers = {"in": ("ingress", "from"), "out": ("egress", "to")}[way]
    return any(
        all(port["port"] in listens for port in rule["ports"])
        and any(
            _selects(named_peer["podSelector"], peer)
            for named_peer in rule.get(peers, [{"podSelector": {}}])
            if "podSelector" in named_peer
        )
        for policy in policies
        if _selects(policy["podSelector"], who)
        for rule in policy.get(rules, ())
    )


def _talks(objects: tuple[Manifest, ...]) -> set[tuple[str, str]]:
    """(caller, callee) for every pair of components that both ends' policies let speak."""
    policies = [each["spec"] for each in of_kind(objects, "NetworkPolicy")]
    workloads = {component_of(each): template(each) for each in of_kind(objects, *WORKLOADS)}
    labels = {name: each["metadata"]["labels"] for name, each in workloads.items()}
    ports = {
        name: {port["name"] for port in each["spec"]["containers"][0].get("ports", ())}
        for name, each in workloads.items()
    }
    return {
        (caller, callee)
        for caller in workloads
        for callee in workloads
        if _allowed(policies, "out", labels[caller], labels[callee], ports[callee])
        and _allowed(policies, "in", labels[callee], labels[caller], ports[callee])
    }


@each_overlay
def test_nobody_speaks_but_those_who_have_to(overlay: str) -> None:
    objects = rendered(overlay)
    deny = named(objects, "NetworkPolicy", "deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert _talks(objects) == (TALKS | WATCHED if overlay == "fleet" else TALKS)


@each_combination
def test_every_pod_meets_the_restricted_standard_and_more(combination: tuple[str, ...]) -> None:
    for component, spec, _ in pods(rendered(*combination)):
        assert spec["securityContext"]["runAsNonRoot"], component
        assert spec["securityContext"]["runAsUser"] == 10001, component
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), component
        assert spec["automountServiceAccountToken"] is False, component
        assert spec["enableServiceLinks"] is False, component
        for volume in spec["volumes"]:
            assert volume.keys() - {"name"} <= VOLUMES, component
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, component
            assert not any("hostPort" in port for port in container.get("ports", ())), component


@each_combination
def test_every_container_asks_for_what_it_may_use(combination: tuple[str, ...]) -> None:
    for component, spec, _ in pods(rendered(*combination)):
        for container in containers(spec):
            for kind in ("requests", "limits"):
                given = container["resources"][kind].keys()
                assert {"cpu", "memory", "ephemeral-storage"} <= given, (component, kind)


@each_overlay
def test_the_namespace_refuses_pods_that_are_less_confined(overlay: str) -> None:
    (namespace,) = of_kind(rendered(overlay), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@each_overlay
def test_no_password_but_the_placeholder_is_in_the_repository(overlay: str) -> None:
    held = {
        name: b64decode(value).decode()
        for secret in of_kind(rendered(overlay), "Secret")
        for name, value in secret["data"].items()
    }
    assert held == {
        "password.conf": "requirepass change-me\n",
        "TANDEM_CLOUD_STORE_URL": "redis://:change-me@redis:6379/0",
    }
