"""The Kubernetes manifests as the tests see them: rendered by kubectl, as a cluster gets them."""

import os
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

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None and not os.environ.get("CI"),
    reason="needs kubectl 1.27 or newer",
)


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


def template(workload: Manifest) -> Manifest:
    """The pod template of a workload."""
    found: Manifest = workload["spec"]["template"]
    return found
