"""The compose stack of this repository as a test drives it: built, started by service names, asked,
stopped. It runs the command an operator has (Compose v2 or docker-compose 1.29) and reads docker's
own account of the containers; it does not know what the services do.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.repo.tree import ROOT


@dataclass(frozen=True, slots=True)
class Compose:
    """One project: its name, and the variables a user would write to `.env`."""

    project: str
    variables: Mapping[str, str]

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run `compose ARGUMENTS`; its standard output."""
        command = (*shlex.split(os.environ.get("COMPOSE", "docker compose")), *arguments)
        environment = {**os.environ, **self.variables, "COMPOSE_PROJECT_NAME": self.project}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def containers(self) -> list[dict[str, Any]]:
        """docker's description of every container of the project, running or not."""
        ids = docker(
            "ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}"
        ).split()
        described: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
        return described

    def container(self, service: str) -> dict[str, Any]:
        """docker's description of the only container of a service."""
        (found,) = (c for c in self.containers() if service_of(c) == service)
        return found


def service_of(container: Mapping[str, Any]) -> str:
    """The compose service a container belongs to."""
    return str(container["Config"]["Labels"]["com.docker.compose.service"])


def docker(*arguments: str) -> str:
    """Run `docker ARGUMENTS`; its standard output."""
    return _run(("docker", *arguments))


def podman(*arguments: str) -> str:
    """Run `podman ARGUMENTS`; its standard output."""
    return _run(("podman", *arguments))


def kubectl(*arguments: str) -> str:
    """Run `kubectl ARGUMENTS`; its standard output."""
    return _run(("kubectl", *arguments))


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout
