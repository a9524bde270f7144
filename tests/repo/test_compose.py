"""The compose file, the images and `.env.example` agree with the code and with each other."""

import re
from typing import Any

import pytest
import yaml

from shared.runtime.lifecycle import LAST_SECONDS
from tests.repo.tree import ROOT
from tests.support.settings import SETTINGS, variable

COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = (ROOT / ".env.example").read_text()
DOCKERFILES = {
    name: (ROOT / path).read_text()
    for name, path in {
        "edge": "services/edge/Dockerfile",
        "cloud": "services/cloud/Dockerfile",
        "load": "cli/load/Dockerfile",
    }.items()
}
# What an image fixes: where it listens, and its name, which is the container's.
OF_THE_IMAGE = {"HOST", "PORT", "NAME"}
SIDES = {
    "edge": ("edge", "edge-2", "edge-3", "edge-4", "edge-gpu"),
    "cloud": ("cloud", "cloud-gpu"),
}


@pytest.mark.parametrize(
    ("side", "service"), [(side, service) for side, names in SIDES.items() for service in names]
)
def test_every_setting_can_be_given_to_every_service(side: str, service: str) -> None:
    settable = {variable(side, name) for name in SETTINGS[side] if name.upper() not in OF_THE_IMAGE}
    assert set(SERVICES[service]["environment"]) == settable


def test_the_example_lists_every_setting_with_its_default() -> None:
    listed = dict(re.findall(r"^#?(TANDEM_(?:EDGE|CLOUD)_[A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    images = {name for name in listed if name.endswith("_IMAGE")}
    given = _defaults_of_compose()
    for side, fields in SETTINGS.items():
        for name, default in fields.items():
            if name.upper() not in OF_THE_IMAGE:
                unset = "" if default is None else str(default)
                shown = given.get(variable(side, name), unset)
                assert listed.pop(variable(side, name)) == shown
    assert set(listed) == images


def test_the_example_lists_every_variable_of_the_compose_file_with_its_default() -> None:
    for name, default in _defaults_of_compose().items():
        assert re.search(rf"^#?{name}={re.escape(default)}$", EXAMPLE, re.MULTILINE), name


def _defaults_of_compose() -> dict[str, str]:
    """The variables the compose file gives a default."""
    found = re.findall(r"\$\{([A-Z0-9_]+):?-([^}]*)\}", COMPOSE_TEXT)
    assert len(dict(found)) == len(set(found)), "a variable with two defaults"
    return dict(found)


@pytest.mark.parametrize("side", SIDES)
def test_a_container_is_not_killed_before_its_service_has_ended(side: str) -> None:
    given = _defaults_of_compose()
    seconds = [
        int(given.get(variable(side, name), str(SETTINGS[side][name])))
        for name in ("drain_seconds", "grace_seconds")
    ]
    allowed = int(given["STOP_GRACE_PERIOD"].removesuffix("s"))
    assert allowed >= sum(seconds) + LAST_SECONDS + 5
    for service in SIDES[side]:
        assert SERVICES[service]["stop_grace_period"] == "${STOP_GRACE_PERIOD:-30s}"


def test_it_has_neither_a_name_nor_a_version() -> None:
    assert not {"name", "version"} & set(COMPOSE)


def test_an_edge_waits_for_a_healthy_cloud_but_does_not_need_it_afterwards() -> None:
    for edge in SIDES["edge"]:
        (condition,) = SERVICES[edge]["depends_on"].values()
        assert condition == {"condition": "service_healthy"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_is_one_the_classic_builder_takes(name: str) -> None:
    text = DOCKERFILES[name]
    assert not re.search(r"^# *syntax=", text, re.MULTILINE)
    assert "--mount" not in text
    assert "<<" not in text


def test_both_services_stand_on_the_same_layers() -> None:
    start, end = "# --- What both services stand on", "# --- The bundle"
    edge, cloud = (
        DOCKERFILES[name].partition(start)[2].partition(end)[0] for name in ("edge", "cloud")
    )
    assert edge == cloud != ""


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_dependencies_are_installed_before_any_code_is_copied(side: str) -> None:
    text = DOCKERFILES[side]
    assert text.rindex("pip install") < text.rindex("COPY shared/")
    assert text.index("pip install") < text.index("COPY shared/")


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_an_image_listens_where_the_stack_expects_it(side: str) -> None:
    text = DOCKERFILES[side]
    port = {"edge": 8000, "cloud": 8001}[side]
    assert f"{variable(side, 'host')}=0.0.0.0 {variable(side, 'port')}={port}" in text
    assert f"EXPOSE {port}" in text
    assert f'ENTRYPOINT ["/opt/tandem/bin/python", "-m", "services.{side}"]' in text
