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
    """One answered request. Seconds are the client's own but for `edge_s`, `cloud_s`, `network_s`
    and `waiting_s`, which are the services' account of it; `gaps_s` are those between tokens.
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
    cloud_passes: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    round_trips: int = 0
    waiting_s: float = 0.0
    near_ties: int = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer: its events, when each came and when it was asked for (on
    `time.perf_counter`'s clock), and the bytes of both bodies.
    """

    events: Sequence[dict[str, Any]]
    arrivals: Sequence[float]
    began: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True)
class _Counters:
    bodies: tuple[int, int]
    wire: tuple[int, int]
    device_s: float


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
    url = stack.edges[edge]
    # Connecting over the network is not the request's: services keep their connections too.
    client.get(f"{url}/healthz").raise_for_status()
    before = _counters(stack)
    stream = streamed(client, url, prompt, parameters)
    settle(stack)
    after = _counters(stack)
    account = _in_cloud if edge in stack.in_cloud else _apart
    return _answer(stream, account(stream, before, after), before, after)


def _answer(
    stream: Stream, account: Mapping[str, Any], before: _Counters, after: _Counters
) -> Answer:
    last, arrivals = stream.events[-1], stream.arrivals
    usage, tokens = last["details"]["usage"], last["details"]["tokens"]
    return Answer(
        ids=[token["id"] for token in tokens],
        text=last["generated_text"],
        sources=[token["source"] for token in tokens],
        prompt_tokens=usage["prompt_tokens"],
        total_s=arrivals[-1] - stream.began,
        ttft_s=arrivals[0] - stream.began,
        gaps_s=[b - a for a, b in pairwise(arrivals)],
        wire_up=after.wire[0] - before.wire[0],
        wire_down=after.wire[1] - before.wire[1],
        cloud_passes=usage["cloud_passes"],
        drafted_tokens=usage["drafted_tokens"],
        accepted_tokens=usage["accepted_tokens"],
        round_trips=usage["round_trips"],
        waiting_s=usage["waiting_seconds"],
        near_ties=usage["near_ties"],
        **account,
    )


def _apart(stream: Stream, before: _Counters, after: _Counters) -> Mapping[str, Any]:
    """What an answer of edge and cloud cost, by the services' own account."""
    usage = stream.events[-1]["details"]["usage"]
    return {
        "edge_s": usage["edge_compute_seconds"],
        "cloud_s": usage["cloud_compute_seconds"],
        "network_s": usage["network_seconds"],
        "cloud_requests": usage["cloud_requests"],
        "bytes_up": after.bodies[0] - before.bodies[0],
        "bytes_down": after.bodies[1] - before.bodies[1],
    }


def _in_cloud(stream: Stream, before: _Counters, after: _Counters) -> Mapping[str, Any]:
    """What an answer cost that was made in the cloud alone: one request, and the time of the device
    both services share. Where steps are not paced there is none: both are on one core, and their
    own accounts are added up.
    """
    usage = stream.events[-1]["details"]["usage"]
    told = usage["edge_compute_seconds"] + usage["cloud_compute_seconds"]
    return {
        "edge_s": 0.0,
        "cloud_s": after.device_s - before.device_s or told,
        "network_s": 0.0,
        "cloud_requests": 1,
        "bytes_up": stream.bytes_up,
        "bytes_down": stream.bytes_down,
    }


def streamed(
    client: httpx.Client, url: str, prompt: str, parameters: Mapping[str, object]
) -> Stream:
    """Ask the edge at `url` and read its answer to the end.

    Raises:
        CommandError: the edge refuses, breaks off, or answers without the cloud it should have had.
    """
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
        sent, received = len(response.request.content), response.num_bytes_downloaded
    if not events or "error" in events[-1]:
        raise CommandError(f"the edge broke off: {events[-1] if events else 'no event'}")
    details = events[-1].get("details")
    if details is None or details["degraded"]:
        raise CommandError(f"the edge went on without the cloud: {events[-1]}")
    return Stream(events, arrivals, began, sent, received)


def settle(stack: Stack) -> None:
    """Wait until the cloud holds no session and nothing travels.

    Raises:
        CommandError: that does not come.
    """
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
    used = stack.device.seconds if stack.device else 0.0
    return _Counters(message_bytes(stack.cloud_url), stack.network.carried(), used)
