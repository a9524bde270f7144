"""Both services as real processes whose steps can be counted; see `slow_service`."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.services import ROOT, Process, Service, Services


def launch_slow(role: str, environment: Mapping[str, str], log: Path) -> Process:
    """Start a service as a process of this module."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.slow_service", role],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )


def slow_services(
    folder: Path, cloud_settings: Mapping[str, str], edge_settings: Mapping[str, str]
) -> Services:
    """A pair that is not started yet, with its logs in `folder`."""
    cloud = Service("cloud", folder / "cloud.log", cloud_settings, launch=launch_slow)
    own = {"cloud_url": cloud.url, **edge_settings}
    return Services(cloud, Service("edge", folder / "edge.log", own, launch=launch_slow))
