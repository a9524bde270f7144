"""Both services on the random model of 200 M parameters, for benchmarks that ask them over HTTP."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.engine.models import random_llama
from cli.processes import serving
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
        with serving(folder) as plan:
            yield plan.edge_url
