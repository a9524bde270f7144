"""What a simulated session runs on: a partition with its prices, software, and a network.

Times are milliseconds throughout the simulation. It knows no protocol.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace

import simpy

from benchmarks.paced.prices import Prices

BYTES_PER_MS_AND_MEGABIT = 125.0
# Rows one engine step takes of a prompt: the services' defaults.
EDGE_CHUNK, CLOUD_CHUNK = 256, 512

Waiting = Generator[simpy.Event, object, None]


@dataclass(frozen=True, slots=True)
class Software:
    """Milliseconds of software around the engines, fitted to measured sessions.

    Args:
        edge_step: an edge step and the token it gives: threads, coding, the event to the user.
        request: a request for a token there and back: HTTP and both event loops.
        streamed: a token the cloud streams.
        megabyte: coding, copying and checking a million bytes of body.
    """

    edge_step: float = 0.0
    request: float = 0.0
    streamed: float = 0.0
    megabyte: float = 0.0


@dataclass(frozen=True, slots=True)
class Wire:
    """The network, and how large messages are.

    Args:
        rtt, up, down: round trip in ms, and Mbit/s each way (None: no limit).
        row: bytes of a coded state.
        block, report: bytes of a message up without its states, and down, HTTP's heads included.
        ids: bytes of a prompt that goes up as ids, for each token.
    """

    rtt: float = 0.0
    up: float | None = None
    down: float | None = None
    row: int = 8192
    block: int = 640
    report: int = 410
    ids: int = 3

    def serialized(self, nbytes: float, mbit: float | None) -> float:
        """Milliseconds `nbytes` take to leave."""
        return nbytes / (mbit * BYTES_PER_MS_AND_MEGABIT) if mbit else 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """A partition with prices: exits before `first` and `last`, cloud from `start` on.

    The services have `start == first`: what travels is the state the first exit reads, as soon as
    it has. The paper's cloud must start at its last exit by its times, while by its traffic a state
    leaves as soon as the first exit has read it; `travels_early` lets both hold.
    """

    prices: Prices
    first: int
    last: int
    start: int
    software: Software = field(default_factory=Software)
    travels_early: bool = True

    @property
    def depth(self) -> int:
        """Layers of the model."""
        return self.prices.depth

    def lower(self, rows: int) -> float:
        """An edge step up to its first exit."""
        return self.prices.forward(self.first, rows)

    def upper(self, rows: int) -> float:
        """What a step adds to go on to the last exit."""
        return self.prices.forward(self.last - self.first, rows, begins=False)

    def cloud_pass(self, rows: int, start: int) -> float:
        """A cloud pass of `rows` from layer `start` on, with one head."""
        return self.prices.forward(self.depth - start, rows) + self.prices.head

    def with_software(self, software: Software) -> "Machine":
        """The same with other software."""
        return replace(self, software=software)


@dataclass(slots=True)
class World:
    """One edge, one cloud and the network between them, with what they have spent."""

    machine: Machine
    wire: Wire
    env: simpy.Environment = field(default_factory=simpy.Environment)
    edge_ms: float = 0.0
    cloud_ms: float = 0.0
    requests: int = 0
    bytes_up: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    uplink: simpy.Resource = field(init=False)
    downlink: simpy.Resource = field(init=False)

    def __post_init__(self) -> None:
        self.uplink = simpy.Resource(self.env)
        self.downlink = simpy.Resource(self.env)

    def edge(self, milliseconds: float) -> Waiting:
        """The edge computes."""
        self.edge_ms += milliseconds
        yield self.env.timeout(milliseconds)

    def cloud(self, milliseconds: float) -> Waiting:
        """The cloud computes."""
        self.cloud_ms += milliseconds
        yield self.env.timeout(milliseconds)

    def up(self, nbytes: float) -> Waiting:
        """A message to the cloud: it waits for the line, leaves, and travels."""
        self.bytes_up += nbytes
        yield from self._carry(self.uplink, self.wire.serialized(nbytes, self.wire.up))

    def down(self, nbytes: float) -> Waiting:
        """A message from the cloud."""
        yield from self._carry(self.downlink, self.wire.serialized(nbytes, self.wire.down))

    def _carry(self, line: simpy.Resource, milliseconds: float) -> Waiting:
        with line.request() as turn:
            yield turn
            yield self.env.timeout(milliseconds)
        yield self.env.timeout(self.wire.rtt / 2)

    def answered(self) -> None:
        """A token has come to the user."""
        self.arrivals.append(self.env.now)
