"""Traces replayed: one simulated session after the other, and what they took."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import simpy

from benchmarks.simulate.sessions import SESSIONS, Trace
from benchmarks.simulate.world import Machine, Waiting, Wire, World


@dataclass(frozen=True, slots=True)
class Result:
    """Sums over the sessions, in seconds; times between tokens over all of them."""

    tokens: int
    total_s: float
    edge_s: float
    cloud_s: float
    ttft_s: float
    itl_p50_s: float
    itl_p95_s: float
    requests: int
    bytes_up: float

    @property
    def network_s(self) -> float:
        """What is neither side's compute: waiting for the network, and software."""
        return max(0.0, self.total_s - self.edge_s - self.cloud_s)


def replay(kind: str, machine: Machine, wire: Wire, traces: Sequence[Trace]) -> Result:
    """Run every trace through a session of `kind` on a network of its own.

    Raises:
        KeyError: there is no such kind.
    """
    worlds = [_one(kind, machine, wire, trace) for trace in traces]
    gaps = numpy.concatenate([numpy.diff(world.arrivals) for world in worlds])
    some = len(gaps) > 0
    return Result(
        tokens=sum(len(world.arrivals) for world in worlds),
        total_s=sum(world.arrivals[-1] for world in worlds) / 1e3,
        edge_s=sum(world.edge_ms for world in worlds) / 1e3,
        cloud_s=sum(world.cloud_ms for world in worlds) / 1e3,
        ttft_s=float(numpy.median([world.arrivals[0] for world in worlds])) / 1e3,
        itl_p50_s=float(numpy.percentile(gaps, 50)) / 1e3 if some else 0.0,
        itl_p95_s=float(numpy.percentile(gaps, 95)) / 1e3 if some else 0.0,
        requests=sum(world.requests for world in worlds),
        bytes_up=sum(world.bytes_up for world in worlds),
    )


def _one(kind: str, machine: Machine, wire: Wire, trace: Trace) -> World:
    world = World(machine, wire)
    session = SESSIONS[kind]

    def whole() -> Waiting:
        yield from session(world, trace)

    done: simpy.Process = world.env.process(whole())
    world.env.run(until=done)
    return world
