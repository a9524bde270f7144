"""One request as its user sees it, with what the services and the network say it cost.

It speaks the edge's public API and reads counters; it judges no text.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

from benchmarks.stack import Stack, contexts_held, message_bytes
from cli.errors import CommandError

SETTLE_SECONDS = 10.0
# The cloud has forgotten a session where it holds none and nothing has crossed the network for
# as long: what is still on its way would be counted to the next request.
QUIET_SECONDS = 0.03


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request. Seconds are the client's own but for `edge_s`, `cloud_s` and
    `network_s`, which are the services' account of it; `gaps_s` are those between tokens.
    """

    ids: Sequence[int]
    text: str
    sources: Sequence[str]
    prompt_tokens: int
    total_s: float
    ttft_s: float
    gaps_s: Sequence[float]
    edge_s: float
    cloud_s: float
    network_s: float
    cloud_requests: int
    bytes_up: int
    bytes_down: int
    wire_up: int
    wire_down: int


@dataclass(frozen=True, slots=True)
class _Counters:
    bodies: tuple[int, int]
    wire: tuple[int, int]


def ask(
    stack: Stack,
    client: httpx.Client,
    edge: str,
    prompt: str,
    parameters: Mapping[str, object],
) -> Answer:
    """Send one request to `edge` and return when the cloud has forgotten its session, so that the
    next one finds an idle network.

    Raises:
        CommandError: the edge refuses, fails, or answers without the cloud it should have had.
    """
    before = _counters(stack)
    events, arrivals, began = _streamed(client, stack.edges[edge], prompt, parameters)
    _settle(stack)
    after = _counters(stack)
    details = events[-1].get("details")
    if details is None or details["degraded"]:
        raise CommandError(f"the edge went on without the cloud: {events[-1]}")
    usage, tokens = details["usage"], details["tokens"]
    return Answer(
        ids=[token["id"] for token in tokens],
        text=events[-1]["generated_text"],
        sources=[token["source"] for token in tokens],
        prompt_tokens=usage["prompt_tokens"],
        total_s=arrivals[-1] - began,
        ttft_s=arrivals[0] - began,
        gaps_s=[b - a for a, b in pairwise(arrivals)],
        edge_s=usage["edge_compute_seconds"],
        cloud_s=usage["cloud_compute_seconds"],
        network_s=usage["network_seconds"],
        cloud_requests=usage["cloud_requests"],
        bytes_up=after.bodies[0] - before.bodies[0],
        bytes_down=after.bodies[1] - before.bodies[1],
        wire_up=after.wire[0] - before.wire[0],
        wire_down=after.wire[1] - before.wire[1],
    )


def _streamed(
    client: httpx.Client, url: str, prompt: str, parameters: Mapping[str, object]
) -> tuple[list[dict[str, Any]], list[float], float]:
    """The events of one streamed answer, when each came, and when it was asked for."""
    body = {"inputs": prompt, "parameters": {**parameters, "details": True}, "stream": True}
    events, arrivals = [], []
    began = time.perf_counter()
    with client.stream("POST", f"{url}/generate", json=body) as response:
        if not response.is_success:
            response.read()
            raise CommandError(f"the edge answered {response.status_code}: {response.text}")
        for line in response.iter_lines():
            if not line.startswith("data:"):
                continue
            arrivals.append(time.perf_counter())
            events.append(json.loads(line[5:]))
    if not events or "error" in events[-1]:
        raise CommandError(f"the edge broke off: {events[-1] if events else 'no event'}")
    return events, arrivals, began


def _settle(stack: Stack) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    carried = stack.network.carried()
    while True:
        time.sleep(QUIET_SECONDS + stack.network.rtt_seconds)
        before, carried = carried, stack.network.carried()
        if carried == before and not contexts_held(stack.cloud_url):
            return
        if time.monotonic() > deadline:
            raise CommandError(f"the cloud still holds a session after {SETTLE_SECONDS:.0f} s")


def _counters(stack: Stack) -> _Counters:
    return _Counters(message_bytes(stack.cloud_url), stack.network.carried())
