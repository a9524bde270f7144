"""What is inside the images, and what is not."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.compose import docker

SIDES = ("edge", "cloud")


def _configuration(image: str) -> dict[str, Any]:
    (described,) = json.loads(docker("image", "inspect", image))
    configuration: dict[str, Any] = described["Config"]
    return configuration


def _inside(image: str, code: str) -> str:
    return docker("run", "--rm", "--entrypoint", "python", image, "-c", code).strip()


def test_sizes_and_the_build_of_torch(
    images: tuple[str, ...], record_figure: Callable[[str, object], None]
) -> None:
    base = int(docker("image", "inspect", "--format", "{{.Size}}", "python:3.11-slim"))
    for image in images:
        size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
        record_figure(f"{image}, MB above its base image", round((size - base) / 1e6))
    torch = _inside(images[0], "import torch; print(torch.__version__, torch.version.cuda)")
    record_figure("torch in the images, and its CUDA", torch)


@pytest.mark.parametrize("side", [*SIDES, "load"])
def test_it_runs_as_nobody_in_particular_with_the_program_as_process_1(
    images: tuple[str, ...], side: str
) -> None:
    configuration = _configuration(f"tandem-{side}:0.1.0")
    assert configuration["User"] == "10001:10001"
    module = "cli.load" if side == "load" else f"services.{side}"
    assert configuration["Entrypoint"] == ["/opt/tandem/bin/python", "-m", module]
    assert configuration["Cmd"] is None


@pytest.mark.parametrize("side", SIDES)
def test_a_service_holds_its_own_code_and_its_own_bundle(
    images: tuple[str, ...], side: str
) -> None:
    seen = json.loads(
        _inside(
            f"tandem-{side}:0.1.0",
            "import json, os; print(json.dumps({'app': sorted(os.listdir('/app')),"
            " 'services': sorted(d for d in os.listdir('/app/services') if d[0] != '_'),"
            " 'role': json.load(open('/bundle/manifest.json'))['role']}))",
        )
    )
    assert seen["services"] == [side]
    assert seen["role"] == side
    assert not {"cli", "training", "models", "tests"} & set(seen["app"])


def test_the_load_generator_holds_no_model_and_no_torch(images: tuple[str, ...]) -> None:
    seen = _inside(
        "tandem-load:0.1.0",
        "import importlib.util as u, os; print(u.find_spec('torch'), sorted(os.listdir('/app')))",
    )
    assert seen.startswith("None")
    assert "services" not in seen


def _megabytes(size: str) -> float:
    """A size as docker writes it: 12.3kB, 45MB, 1.2GB."""
    number = size.rstrip("kMGTB")
    return float(number) * {"B": 1e-6, "kB": 1e-3, "MB": 1, "GB": 1e3}[size.removeprefix(number)]


@pytest.mark.parametrize("side", SIDES)
def test_the_layer_of_dependencies_is_shared(images: tuple[str, ...], side: str) -> None:
    layers = [
        json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
        for image in images[:2]
    ]
    sizes = docker("history", "--format", "{{.Size}}", f"tandem-{side}:0.1.0").split()
    own = sum(_megabytes(size) for size in sizes[:8])
    shared = [a for a, b in zip(*layers, strict=False) if a == b]
    assert len(shared) >= len(layers[0]) - 8
    assert own < 50, "what a change of code builds anew, in MB"
