"""Both services on the random model of 200 M parameters, for benchmarks that ask them over HTTP."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.engine.models import random_llama
from cli.processes import Plan, free_ports, running, wait_ready
from shared.model import write_bundles
from shared.protocol.version import PROTOCOL_VERSION

SPLIT, EDGE_DEPTH = 4, 8


@contextmanager
def edge_and_cloud(compute_format: str) -> Iterator[str]:
    """An edge in front of its cloud, both ready and in this format; the edge's URL."""
    with tempfile.TemporaryDirectory(prefix="tandem-engine-") as name:
        folder = Path(name)
        write_bundles(
            random_llama(folder / "model"),
            folder,
            split=SPLIT,
            edge_depth=EDGE_DEPTH,
            edge_format=compute_format,
            cloud_format=compute_format,
            protocol_version=PROTOCOL_VERSION,
        )
        edge_port, cloud_port = free_ports(2)
        plan = Plan(folder / "edge", folder / "cloud", edge_port, cloud_port)
        with running(plan, logs=folder) as services:
            for service, url in zip(services, (plan.cloud_url, plan.edge_url), strict=True):
                wait_ready(service, url, seconds=120)
            yield plan.edge_url
