"""The Kubernetes manifests as the tests see them: rendered by kubectl, as a cluster gets them."""

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from tests.repo.tree import ROOT

Manifest = dict[str, Any]

KUBERNETES = ROOT / "k8s"
OVERLAYS = sorted(each.name for each in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(each.name for each in (KUBERNETES / "components").iterdir())
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")

COMBINATIONS = [
    *((overlay,) for overlay in OVERLAYS),
    *((overlay, component) for overlay in OVERLAYS for component in COMPONENTS),
    *((overlay, *COMPONENTS) for overlay in OVERLAYS),
]


def _version() -> tuple[int, int]:
    """Release of the kubectl found here; (0, 0) where there is none."""
    if shutil.which("kubectl") is None:
        return (0, 0)
    told = subprocess.run(
        ("kubectl", "version", "--client", "--output=json"), capture_output=True, check=True
    )
    client = json.loads(told.stdout)["clientVersion"]
    # Some builds say `32+`.
    return int(client["major"]), int(re.sub(r"\D", "", client["minor"]))


needs_kubectl = pytest.mark.skipif(
    _version() < (1, 27) and not os.environ.get("CI"), reason="needs kubectl 1.27 or newer"
)
each_combination = pytest.mark.parametrize("combination", COMBINATIONS, ids="+".join)
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@cache
def rendered(overlay: str, *components: str) -> tuple[Manifest, ...]:
    """The objects of an overlay, with components on top."""
    folder = KUBERNETES / "overlays" / overlay
    if not components:
        return _kustomize(folder)
    # Beside the overlay, since kustomize knows only relative paths.
    with TemporaryDirectory(dir=KUBERNETES, prefix=".rendered-") as temporary:
        kustomization = {
            "resources": [f"../overlays/{overlay}"],
            "components": [f"../components/{component}" for component in components],
            "namespace": "tandem",
        }
        (Path(temporary) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _kustomize(Path(temporary))


def _kustomize(folder: Path) -> tuple[Manifest, ...]:
    done = subprocess.run(
        ("kubectl", "kustomize", str(folder)), capture_output=True, text=True, check=False
    )
    # kustomize says what is deprecated or did not match on standard error, and goes on.
    if done.returncode or done.stderr:
        raise RuntimeError(done.stderr)
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(objects: tuple[Manifest, ...], *kinds: str) -> list[Manifest]:
    """The objects of some kinds."""
    return [each for each in objects if each["kind"] in kinds]


def named(objects: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    """The object of a kind with a name; a generated suffix does not count."""
    (found,) = (
        each
        for each in of_kind(objects, kind)
        if each["metadata"]["name"] == name or each["metadata"]["name"].startswith(f"{name}-")
    )
    return found


def service(objects: tuple[Manifest, ...], name: str) -> Manifest:
    """The Service of exactly that name."""
    (found,) = (e for e in of_kind(objects, "Service") if e["metadata"]["name"] == name)
    return found


def component_of(workload: Manifest) -> str:
    """Which part of Tandem a workload runs."""
    return str(template(workload)["metadata"]["labels"]["app.kubernetes.io/component"])


def pods(objects: tuple[Manifest, ...]) -> list[tuple[str, Manifest, Manifest]]:
    """(component, pod spec, workload) of every workload."""
    return [
        (component_of(each), template(each)["spec"], each) for each in of_kind(objects, *WORKLOADS)
    ]


def containers(spec: Manifest) -> list[Manifest]:
    """Every container of a pod, those that run before the others included."""
    return [*spec.get("initContainers", ()), *spec["containers"]]


def template(workload: Manifest) -> Manifest:
    """The pod template of a workload."""
    found: Manifest = workload["spec"]["template"]
    return found
