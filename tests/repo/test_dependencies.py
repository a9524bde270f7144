"""Every dependency is pinned, and each pin lies in the range the code is written for."""

import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repo.tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in group
]
PINS = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for pin in (Requirement(line),)
}
# What `make install` leaves out.
LEFT_OUT = {
    canonicalize_name(Requirement(line).name)
    for extra in ("peers", "fuzz", "supply")
    for line in PROJECT["optional-dependencies"][extra]
}

each_dependency = pytest.mark.parametrize("dependency", DECLARED, ids=lambda each: each.name)


@each_dependency
def test_a_dependency_has_a_ceiling_and_a_floor(dependency: Requirement) -> None:
    assert {bound.operator for bound in dependency.specifier} >= {">=", "<"}


@each_dependency
def test_a_dependency_is_pinned_inside_its_range(dependency: Requirement) -> None:
    (pin,) = PINS[canonicalize_name(dependency.name)].specifier
    assert pin.operator == "=="
    assert dependency.specifier.contains(pin.version.replace("*", "0"))


@pytest.mark.parametrize("package", PINS)
def test_what_is_installed_is_what_is_pinned(package: str) -> None:
    try:
        installed = version(package)
    except PackageNotFoundError:
        assert package in LEFT_OUT
        return
    assert PINS[canonicalize_name(package)].specifier.contains(installed)


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_an_image_has_what_its_side_alone_needs(side: str) -> None:
    assert PROJECT["optional-dependencies"][side]
    steps = (ROOT / "services" / side / "Dockerfile").read_text()
    assert f"requirements.py --only {side};" in steps
