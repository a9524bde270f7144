"""Many edges on one cloud: when its queue saturates, and what its users see of that.

Every edge generates without a pause, one answer after the other, as a fleet does at its busiest.
The cloud batches continuously, as its engine does: a step takes whatever waits, oldest first, up to
its row budget, and costs one step and the further rows. Not modelled: memory for contexts, the
cloud's bandwidth, and prompts, which are taken as already there.
"""

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy

from benchmarks.paced.prices import FIRST_EXIT_SHARE, OFFLOADED_SHARE, Prices
from benchmarks.simulate.world import CLOUD_CHUNK, Software, Wire

EDGES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
# Requests a run goes on for: beyond the first round of every edge, which is not counted.
REQUESTS = 200_000
# The cloud is saturated where a token takes this many times what it takes a fleet of one.
SATURATED = 2.0


@dataclass(frozen=True, slots=True)
class Service:
    """What one request to the cloud is, and what lies between two of the same session.

    Args:
        rows: positions of a pass, the kept tokens before it included.
        tokens: tokens a request stands for.
        layers: layers of the cloud's pass.
        pause: milliseconds from an answer to the next request reaching the cloud, drawn at random.
    """

    rows: float
    tokens: float
    layers: int
    pause: "Pause"


@dataclass(frozen=True, slots=True)
class Pause:
    """The edge's own time until it next needs the cloud, plus the network's there and back.

    Args:
        step: milliseconds of an edge token.
        kept: chance that a token is kept, so that another follows before the cloud is asked.
        network: round trip, serialization and software of a request.
    """

    step: float
    kept: float
    network: float

    def draw(self, random_unit: float) -> float:
        """One pause: the tokens kept in a row are geometric, the last one is offloaded."""
        tokens = 1
        if self.kept:
            tokens += int(numpy.log(1 - random_unit) / numpy.log(self.kept))
        return self.step * tokens + self.network


@dataclass(frozen=True, slots=True)
class Point:
    """A fleet of one size. `p95_ms` and `mean_ms` are of a request's wait for the cloud and its
    pass; `slowdown` is the time a token takes over that of a fleet of one.
    """

    service: str
    edges: int
    tokens_per_second: float
    busy: float
    rows_a_step: float
    mean_ms: float
    p95_ms: float
    slowdown: float


def services(prices: Prices, wire: Wire, software: Software) -> dict[str, Service]:
    """What is compared: the whole model for every token, or a pass for those the exits offload."""
    depth = prices.depth
    first, last = depth // 4, depth // 2
    sent = wire.serialized(wire.row + wire.block, wire.up)
    there_and_back = wire.rtt + sent + software.request

    def collaborative(start: int) -> Service:
        lower = prices.forward(start, 1) + prices.head
        upper = prices.forward(last - start, 1, begins=False) + prices.head
        step = lower + (1 - FIRST_EXIT_SHARE) * upper if last > start else lower
        pause = Pause(step + software.edge_step, 1 - OFFLOADED_SHARE, there_and_back)
        each = 1 / OFFLOADED_SHARE
        return Service(each, each, depth - start, pause)

    return {
        # Streamed: a session is in every step, and nothing lies between.
        "cloud-only": Service(1.0, 1.0, depth, Pause(0.0, 0.0, 0.0)),
        "CE-CoLLM 49.6%": collaborative(first),
        "CE-CoLLM 49.6%, half": collaborative(last),
    }


def sweep(found: dict[str, Service], prices: Prices, edges: Sequence[int] = EDGES) -> list[Point]:
    """Every service at every size of the fleet."""
    points: list[Point] = []
    for name, service in found.items():
        alone: float | None = None
        for count in edges:
            point = run(name, service, prices, count, alone)
            alone = alone or 1e3 * count / point.tokens_per_second
            points.append(point)
    return points


def run(
    name: str,
    service: Service,
    prices: Prices,
    edges: int,
    alone: float | None = None,
    *,
    requests: int = REQUESTS,
) -> Point:
    """One fleet for `requests` requests, or two of every edge where that is more.

    Args:
        alone: milliseconds a token takes a fleet of one; where not given, it is this one's own.
    """
    unit = random.Random(edges).random
    arriving = [(service.pause.draw(unit()) * unit(), n) for n in range(edges)]
    heapq.heapify(arriving)
    waiting: deque[tuple[float, int]] = deque()
    most = max(1, int(CLOUD_CHUNK / service.rows))
    now = busy = began = 0.0
    served = steps = counted = 0
    waits: list[float] = []
    wanted = max(requests, 2 * edges) if edges > 1 else requests // 100
    while served < wanted + edges:
        if not waiting and arriving[0][0] > now:
            now = arriving[0][0]
        while arriving and arriving[0][0] <= now:
            waiting.append(heapq.heappop(arriving))
        batch = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        took = _step(prices, service, len(batch))
        now += took
        if served >= edges:  # the first round of every edge is how the run began, not how it goes
            busy, steps, counted = busy + took, steps + 1, counted + len(batch)
            waits += [now - asked for asked, _ in batch]
        else:
            began = now
        served += len(batch)
        for _, edge in batch:
            heapq.heappush(arriving, (now + service.pause.draw(unit()), edge))
    rate = counted * service.tokens / (now - began) * 1e3
    return Point(
        service=name,
        edges=edges,
        tokens_per_second=rate,
        busy=busy / (now - began),
        rows_a_step=counted * service.rows / steps,
        mean_ms=float(numpy.mean(waits)),
        p95_ms=float(numpy.percentile(waits, 95)),
        slowdown=1e3 * edges / rate / alone if alone else 1.0,
    )


def _step(prices: Prices, service: Service, requests: int) -> float:
    rows = max(1, round(requests * service.rows))
    return prices.forward(service.layers, rows) + prices.head


def saturation(points: Sequence[Point], service: str) -> float | None:
    """Edges at which a token takes SATURATED times what it takes one alone, between the sizes run;
    None where it never does.
    """
    own = [point for point in points if point.service == service]
    for before, after in pairwise(own):
        if after.slowdown >= SATURATED > before.slowdown:
            share = (SATURATED - before.slowdown) / (after.slowdown - before.slowdown)
            return before.edges + share * (after.edges - before.edges)
    return None
