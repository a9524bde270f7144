"""Runs the pods of rendered Kubernetes manifests with podman, where there is no cluster.

What the control plane would do is done here and kept small: a workload becomes that many pods, a
pod answers to the names of the Services that select it, a pod is ready when its readiness probe
says so, and a Job is over when its containers end. Everything inside a pod (ConfigMaps, Secrets,
security contexts, limits, volumes, arguments) goes to podman as it was rendered.

Three things are changed: `ports` are taken out, which podman would publish on this machine, where
two edges collide; so are the probes, which podman runs with a curl that the images do not have; and
a Secret's files come from a ConfigMap, because podman 4.3 mounts them without decoding.
"""

import copy
import json
import socket
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.compose import podman
from tests.support.prometheus import eventually

Manifest = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
SETTINGS = ("ConfigMap", "Secret", "PersistentVolumeClaim")


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod to run: its manifests, the names it answers to, and where it says it is ready."""

    name: str
    component: str
    manifests: tuple[Manifest, ...]
    aliases: tuple[str, ...]
    # (port, path) that answers once it is ready; no path where a connection is enough.
    ready: tuple[int, str | None] | None

    @property
    def containers(self) -> tuple[str, ...]:
        """What podman calls its containers."""
        spec = self.manifests[-1]["spec"]
        return tuple(f"{self.name}-{container['name']}" for container in spec["containers"])

    @property
    def images(self) -> tuple[str, ...]:
        """The images its containers run."""
        return tuple(each["image"] for each in self.manifests[-1]["spec"]["containers"])


def pods(objects: Sequence[Manifest], replicas: Mapping[str, int]) -> list[Pod]:
    """The pods of every workload; `replicas` names how many of a workload, else one."""
    services = [each for each in objects if each["kind"] == "Service"]
    settings = {
        (each["kind"], each["metadata"]["name"]): each
        for each in objects
        if each["kind"] in SETTINGS
    }
    return [
        _pod(f"{workload['metadata']['name']}-{index}", workload, services, settings)
        for workload in objects
        if workload["kind"] in WORKLOADS
        for index in range(replicas.get(workload["metadata"]["name"], 1))
    ]


def _pod(
    name: str,
    workload: Manifest,
    services: Sequence[Manifest],
    settings: Mapping[tuple[str, str], Manifest],
) -> Pod:
    template = copy.deepcopy(workload["spec"]["template"])
    labels, spec = template["metadata"]["labels"], template["spec"]
    ready = _readiness(spec["containers"][0])
    for container in spec["containers"]:
        for gone in ("ports", "livenessProbe", "readinessProbe", "startupProbe"):
            container.pop(gone, None)
    claims = [
        _claimed(name, claim, spec) for claim in workload["spec"].get("volumeClaimTemplates", ())
    ]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }
    named = json.dumps(spec)
    used = [each for (_, called), each in settings.items() if json.dumps(called) in named]
    return Pod(
        name=name,
        component=labels["app.kubernetes.io/component"],
        manifests=(*_as_files(spec, used), *claims, pod),
        aliases=tuple(
            service["metadata"]["name"]
            for service in services
            if service["spec"]["selector"].items() <= labels.items()
        ),
        ready=ready,
    )


def _readiness(container: Manifest) -> tuple[int, str | None] | None:
    probe = container.get("readinessProbe", {})
    asked = probe.get("httpGet") or probe.get("tcpSocket")
    if asked is None:
        return None
    named = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    return int(named.get(asked["port"], asked["port"])), asked.get("path")


def _as_files(spec: Manifest, used: Sequence[Manifest]) -> list[Manifest]:
    """The settings a pod uses, its Secrets as ConfigMaps."""
    mounted = set()
    for container in spec["containers"]:
        for source in container.get("envFrom", ()):
            secret = source.pop("secretRef", None)
            if secret is not None:
                source["configMapRef"] = secret
                mounted.add(secret["name"])
    for volume in spec.get("volumes", ()):
        secret = volume.pop("secret", None)
        if secret is not None:
            volume["configMap"] = {"name": secret["secretName"]}
            mounted.add(secret["secretName"])
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": each["metadata"],
            "data": {k: b64decode(v).decode() for k, v in each["data"].items()},
        }
        if each["kind"] == "Secret" and each["metadata"]["name"] in mounted
        else each
        for each in used
    ]


def _claimed(pod: str, claim: Manifest, spec: Manifest) -> Manifest:
    """The claim a StatefulSet makes for a pod, mounted into it."""
    name = f"{claim['metadata']['name']}-{pod}"
    volume = {"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": name}}
    spec.setdefault("volumes", []).append(volume)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": claim["spec"],
    }


@dataclass(frozen=True, slots=True)
class Machine:
    """A podman network with the pods started on it; `folder` takes their manifests."""

    network: str
    folder: Path

    def start(self, pod: Pod) -> None:
        """Run a pod under the names of its Services; return once it is ready."""
        file = self.folder / f"{pod.name}.yaml"
        file.write_text(yaml.safe_dump_all(pod.manifests))
        names = ",".join(f"alias={alias}" for alias in pod.aliases)
        network = f"{self.network}:{names}" if names else self.network
        podman("play", "kube", "--network", network, str(file))
        if pod.ready is not None:
            port, path = pod.ready
            eventually(lambda: _answers(self.address(pod), port, path), bool, seconds=90)

    def address(self, pod: Pod) -> str:
        """The pod's address on the network."""
        infra = podman("pod", "inspect", "--format", "{{.InfraContainerID}}", pod.name).strip()
        where = f'{{{{(index .NetworkSettings.Networks "{self.network}").IPAddress}}}}'
        return podman("inspect", "--format", where, infra).strip()

    def log(self, pod: Pod) -> str:
        """Standard output of the pod's first container."""
        return podman("logs", pod.containers[0])

    def wait(self, pod: Pod) -> int:
        """Wait until the pod's first container ends; its exit code."""
        return int(podman("wait", pod.containers[0]))

    def stop(self, pod: Pod) -> list[int]:
        """Stop a pod; the exit codes of its containers."""
        podman("pod", "stop", "--time", "30", pod.name)
        where = "{{.State.ExitCode}}"
        return [int(podman("inspect", "--format", where, name)) for name in pod.containers]


def _answers(address: str, port: int, path: str | None) -> bool:
    if path is not None:
        return httpx.get(f"http://{address}:{port}{path}", trust_env=False).is_success
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return False
    return True


@contextmanager
def machine(network: str, folder: Path, plan: Sequence[Pod]) -> Iterator[Machine]:
    """A machine for the pods of a plan; they, their volumes and the network are gone after."""
    _clean(network, plan)
    podman("network", "create", network)
    try:
        yield Machine(network, folder)
    finally:
        _clean(network, plan)


def _clean(network: str, plan: Sequence[Pod]) -> None:
    podman("pod", "rm", "--force", "--ignore", *(pod.name for pod in plan))
    made = {(each["kind"], each["metadata"]["name"]) for pod in plan for each in pod.manifests[:-1]}
    for kind, listed in (("PersistentVolumeClaim", "volume"), ("Secret", "secret")):
        for name in podman(listed, "ls", "--format", "{{.Name}}").split():
            if (kind, name) in made:
                podman(listed, "rm", name)
    if network in podman("network", "ls", "--format", "{{.Name}}").split():
        podman("network", "rm", "--force", network)
