"""Models of other sizes on other networks: time over cloud-only's, and where it breaks even.

A larger model's layer costs as many times more as it has parameters, on the same machines; heads
grow with the width, and a step's fixed part stays. Exits keep the paper's shares of tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.paced.prices import Prices, paper_prices
from benchmarks.simulate.paper import traces
from benchmarks.simulate.replay import replay
from benchmarks.simulate.sessions import Trace
from benchmarks.simulate.world import Machine, Software, Wire

ROUND_TRIPS_MS = (3.0, 10.0, 20.0, 50.0, 100.0, 200.0)
MEGABITS = (5.0, 30.0, 100.0, 1000.0)
ANSWERS = 10  # of the paper's hundred: enough for shares within a hundredth
LONGEST_BREAK_EVEN_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's size: layers, width, parameters of a layer."""

    name: str
    depth: int
    hidden: int
    layer_parameters: float

    def prices(self) -> Prices:
        """Its price list, scaled from the 7B model's."""
        small, base = SHAPES["7B"], paper_prices()
        larger = self.layer_parameters / small.layer_parameters
        deeper = self.depth / small.depth
        return Prices(
            step=base.step,
            layer=base.layer * larger,
            head=base.head * self.hidden / small.hidden,
            row=base.row * larger * deeper,
            depth=self.depth,
        )


# Llama 2's: attention (with 8 KV heads in the larger one) and the three matrices of its MLP.
SHAPES: Mapping[str, Shape] = {
    "7B": Shape("7B", 32, 4096, 4 * 4096**2 + 3 * 4096 * 11008),
    "70B": Shape("70B", 80, 8192, 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672),
}

# (kind of session, the first exit and the cloud's start, as shares of the depth)
KINDS: Mapping[str, tuple[str, float, float]] = {
    "naive split": ("naive split", 0.25, 0.25),
    "fair split": ("split", 0.25, 0.25),
    "standalone": ("standalone", 0.25, 0.25),
    "CE-CoLLM 49.6%": ("collaborative", 0.25, 0.25),
    "CE-CoLLM 49.6%, half": ("collaborative", 0.5, 0.5),
    # As the paper's must be by its times; the services do not cut so.
    "CE-CoLLM 49.6%, as the paper cuts": ("collaborative", 0.25, 0.5),
}


@dataclass(frozen=True, slots=True)
class Point:
    """A deployment of a shape on a network: time and cloud seconds over cloud-only's."""

    shape: str
    deployment: str
    rtt_ms: float
    mbit: float
    total: float
    cloud: float


def sweep(software: Software) -> list[Point]:
    """Every shape and deployment on every network."""
    return [
        point(shape, name, rtt, mbit, software)
        for shape in SHAPES.values()
        for mbit in MEGABITS
        for rtt in ROUND_TRIPS_MS
        for name in KINDS
    ]


def point(shape: Shape, name: str, rtt: float, mbit: float, software: Software) -> Point:
    """One deployment on one network."""
    kind, exits, begins = KINDS[name]
    first, start = round(shape.depth * exits), round(shape.depth * begins)
    last = shape.depth // 2
    own = Machine(shape.prices(), first, last, start, software)
    wire = Wire(rtt=rtt, up=mbit, down=mbit, row=shape.hidden * 2)
    answers: Sequence[Trace] = traces(first, last)[:ANSWERS]
    if kind in ("split", "naive split"):
        answers = [Trace(each.prompt_tokens, ["cloud"] * len(each.sources)) for each in answers]
    sent = replace(wire, row=wire.row * 2) if kind == "naive split" else wire
    found = replay(kind, own, sent, answers)
    base = replay("cloud-only", own, wire, answers)
    return Point(
        shape=shape.name,
        deployment=name,
        rtt_ms=rtt,
        mbit=mbit,
        total=found.total_s / base.total_s,
        cloud=found.cloud_s / base.cloud_s,
    )


def break_even(shape: Shape, name: str, mbit: float, software: Software) -> float | None:
    """The round trip in ms up to which a deployment is no slower than cloud-only; None where it is
    slower without any, and infinity where it never is.
    """

    def slower(rtt: float) -> bool:
        return point(shape, name, rtt, mbit, software).total > 1

    if slower(0.0):
        return None
    if not slower(LONGEST_BREAK_EVEN_MS):
        return float("inf")
    low, high = 0.0, LONGEST_BREAK_EVEN_MS
    while high - low > 0.1:
        middle = (low + high) / 2
        low, high = (low, middle) if slower(middle) else (middle, high)
    return low
