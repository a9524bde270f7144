"""One request on a paced set-up of its own, with everything its processes noted of it."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks import notes
from benchmarks.client import Stream, settle, streamed
from benchmarks.deployments import Deployment
from benchmarks.network.path import Shape
from benchmarks.network.proxy import Crossing
from benchmarks.paced.model import Ran
from benchmarks.stack import EdgeKind, Stack, cores_here, stack
from benchmarks.suite import cuts_of
from cli.partition import make_bundles

REQUEST_SECONDS = 120.0
WARM_UP_TOKENS = 4
# What a request leaves under way on the edge, a step for nobody, has ended after this.
STEP_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Recording:
    """What happened between asking and the last token, moments on one clock.

    Args:
        edge, cloud: calls of each side's model.
        crossings: what went through the network.
    """

    stream: Stream
    split: int
    edge: list[Ran]
    cloud: list[Ran]
    crossings: list[Crossing]

    @property
    def details(self) -> Mapping[str, Any]:
        """The answer's own account."""
        found: Mapping[str, Any] = self.stream.events[-1]["details"]
        return found


def record(
    model: Path, deployment: Deployment, prompt: str, *, shape: Shape, new_tokens: int
) -> Recording:
    """Start a set-up, warm it up, ask once.

    Raises:
        CommandError: something did not start, or the request failed.
    """
    split, edge_depth = cuts_of(model)[deployment.cut]
    with tempfile.TemporaryDirectory(prefix="tandem-timeline-") as name:
        folder = Path(name)
        make_bundles(model, folder, split=split, edge_depth=edge_depth)
        kind = EdgeKind(
            deployment.edge,
            folder / "edge",
            deployment.resend,
            deployment.settings,
            deployment.in_cloud,
        )
        with stack(
            folder / "cloud", [kind], cores=cores_here(), paced=True, logs=folder, notes=True
        ) as running:
            stream = _asked(running, deployment, prompt, shape, new_tokens)
        began, ended = stream.began, stream.arrivals[-1]
        return Recording(
            stream,
            split,
            [r for r in _ran(folder / f"{kind.name}.jsonl") if began <= r.began < ended],
            [r for r in _ran(folder / "cloud.jsonl") if began <= r.began < ended],
            [
                crossing
                for crossing in _crossings(folder / "network.jsonl")
                if began <= crossing.sent < ended
            ],
        )


def _asked(
    running: Stack, deployment: Deployment, prompt: str, shape: Shape, new_tokens: int
) -> Stream:
    url = running.edges[deployment.edge]
    running.network.emulate(shape)
    with httpx.Client(timeout=REQUEST_SECONDS, trust_env=False) as client:
        for length in (WARM_UP_TOKENS, new_tokens):
            lengths = {"max_new_tokens": length, "min_new_tokens": length}
            stream = streamed(client, url, prompt, {**deployment.parameters, **lengths})
            settle(running)
            time.sleep(STEP_SECONDS)
    return stream


def _ran(path: Path) -> list[Ran]:
    return [Ran(**noted) for noted in notes.read(path)] if path.exists() else []


def _crossings(path: Path) -> list[Crossing]:
    return [Crossing(**noted) for noted in notes.read(path)]
