"""The version is said once, and repeated where a file cannot import it."""

import re
import tomllib

import pytest

from shared import __version__
from tests.repo.tree import ROOT


def test_the_project_has_the_version_of_the_code() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


@pytest.mark.parametrize(
    "file",
    [
        "docker-compose.yml",
        "k8s/base/kustomization.yaml",
        "k8s/overlays/fleet/kustomization.yaml",
        "k8s/overlays/gpu/kustomization.yaml",
        "k8s/overlays/jetson/kustomization.yaml",
    ],
)
def test_images_have_the_version_of_the_code(file: str) -> None:
    named = re.findall(r"(?:tandem-\w+:|newTag: )(\d+\.\d+\.\d+)", (ROOT / file).read_text())
    assert set(named) == {__version__}
