"""What the tests of the images share: the images, built from this tree by the compose file."""

import shutil

import pytest

from tests.support.compose import Compose

IMAGES = ("tandem-edge:0.1.0", "tandem-cloud:0.1.0", "tandem-load:0.1.0")


def pytest_configure() -> None:
    """Say at once what is missing, before anything is built."""
    missing = [tool for tool in ("docker", "podman", "kubectl") if shutil.which(tool) is None]
    if missing:
        raise pytest.UsageError(f"these tests need {', '.join(missing)}")


@pytest.fixture(scope="session")
def images() -> tuple[str, ...]:
    """The names of the images, built."""
    Compose("tandem-e2e", {"COMPOSE_PROFILES": "load"}).run("build", "cloud", "edge", "load")
    return IMAGES
