"""Sessions as the services run them, one function for each way, on the resources of a `World`.

What is replayed is a trace: how long the prompt was and where each token came from; the tokens
themselves do not matter. A later mode adds its function to `SESSIONS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import simpy

from benchmarks.simulate.world import CLOUD_CHUNK, EDGE_CHUNK, Waiting, World


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer: tokens of the prompt, and per token `exit:<layer>` or `cloud`."""

    prompt_tokens: int
    sources: Sequence[str]


def cloud_only(world: World, trace: Trace) -> Waiting:
    """The whole model in the cloud, streamed: the prompt goes up as ids, a report comes with each
    token, and the cloud computes on meanwhile.
    """
    env, machine, wire = world.env, world.machine, world.wire
    world.requests += 1
    yield env.timeout(machine.software.request)
    yield from world.up(wire.block + wire.ids * trace.prompt_tokens)
    yield from _prefill(world, trace.prompt_tokens, 0)
    coming = []
    for place in range(len(trace.sources)):
        rows = _last_chunk(trace.prompt_tokens, CLOUD_CHUNK) if place == 0 else 1
        yield from world.cloud(machine.cloud_pass(rows, 0))
        yield env.timeout(machine.software.streamed)
        coming.append(env.process(_report(world)))
    yield simpy.AllOf(env, coming)


def _report(world: World) -> Waiting:
    yield from world.down(world.wire.report)
    world.answered()


def standalone(world: World, trace: Trace) -> Waiting:
    """The edge alone."""
    yield from _Edge(world, trace).run()


def split(world: World, trace: Trace) -> Waiting:
    """Every token through edge and cloud, each state sent once; no exit is asked."""
    yield from _Edge(world, trace, asks=False, uplink=_Uplink(world)).run()


def naive_split(world: World, trace: Trace) -> Waiting:
    """The same, the states of the whole prefix sent for every token; the cloud keeps its KV."""
    yield from _Edge(world, trace, asks=False, uplink=_Uplink(world, resend=True)).run()


def collaborative(world: World, trace: Trace) -> Waiting:
    """CE-CoLLM: exits where they are sure, states uploaded in the background, the cloud asked for
    the rest, one token a request.
    """
    uplink = _Uplink(world)
    world.env.process(uplink.upload())
    yield from _Edge(world, trace, uplink=uplink).run()


@dataclass(slots=True)
class _Uplink:
    """What of a session has reached the cloud. `held` are positions whose states exist on the edge,
    `sent` those on their way, `arrived` those in the cloud, `known` those its KV has.
    """

    world: World
    resend: bool = False
    held: int = 0
    sent: int = 0
    arrived: int = 0
    known: int = 0
    news: simpy.Event = field(init=False)

    def __post_init__(self) -> None:
        self.news = self.world.env.event()

    def extend(self, rows: int) -> None:
        """More states are ready to go."""
        self.held += rows
        if not self.news.triggered:
            self.news.succeed()

    def upload(self) -> Waiting:
        """In the background, one block at a time: what has piled up goes as one."""
        world = self.world
        while True:
            yield self.news
            self.news = world.env.event()
            while self.sent < self.held:
                yield from self._carry(*self._cut())
                yield from world.down(world.wire.report)

    def ask(self) -> Waiting:
        """Ask for the token after the last position; everything not sent yet goes along."""
        world = self.world
        world.requests += 1
        # Cut before anything is waited for, as the services do: the uploader wakes to nothing left.
        rows, upto = self._cut()
        yield world.env.timeout(world.machine.software.request)
        yield from self._carry(rows, upto)
        while self.arrived < self.held:  # a block sent before is still under way
            yield world.env.timeout(0.05)
        start = world.machine.start
        rows = self.held - self.known
        yield from _prefill(world, rows, start)
        yield from world.cloud(world.machine.cloud_pass(_last_chunk(rows, CLOUD_CHUNK), start))
        self.known = self.held
        yield from world.down(world.wire.report)

    def _cut(self) -> tuple[int, int]:
        """Rows of the next block, and the position they reach; counted as sent from now on."""
        rows = self.held if self.resend else self.held - self.sent
        self.sent = self.held
        return rows, self.sent

    def _carry(self, rows: int, upto: int) -> Waiting:
        world = self.world
        nbytes = world.wire.block + rows * world.wire.row
        yield world.env.timeout(world.machine.software.megabyte * nbytes / 1e6)
        yield from world.up(nbytes)
        self.arrived = max(self.arrived, upto)


@dataclass(slots=True)
class _Edge:
    """The edge's side of a session. `behind` are positions run to the first exit only."""

    world: World
    trace: Trace
    asks: bool = True
    uplink: _Uplink | None = None
    behind: int = 0

    def run(self) -> Waiting:
        """Make every token of the trace."""
        world, new = self.world, self.trace.prompt_tokens
        for source in self.trace.sources:
            yield from self._step(new, source)
            if source == "cloud" and self.uplink is not None:
                yield from self.uplink.ask()
            world.answered()
            new = 1

    def _step(self, new: int, source: str) -> Waiting:
        """One token's step: the new positions, then, unless the first exit is sure, all those left
        behind.
        """
        world, machine = self.world, self.world.machine
        for _ in range((new - 1) // EDGE_CHUNK):
            yield from world.edge(machine.lower(EDGE_CHUNK))
        cost = machine.lower(_last_chunk(new, EDGE_CHUNK))
        self.behind += new
        # What is between the first exit and the cloud's start is the edge's to run, exits or not.
        goes_on = machine.start > machine.first
        if self.asks:
            cost += machine.prices.head
            goes_on = source != f"exit:{machine.first}" and machine.last > machine.first
        ready = new if machine.travels_early else 0
        if goes_on:
            cost += machine.upper(self.behind) + (machine.prices.head if self.asks else 0.0)
            ready = ready or self.behind
            self.behind = 0
        yield from world.edge(cost)
        yield world.env.timeout(machine.software.edge_step)
        if self.uplink is not None and ready:
            self.uplink.extend(ready)


def _prefill(world: World, rows: int, start: int) -> Waiting:
    """The chunks of a long run of rows before the last one, which asks for a token."""
    for _ in range((rows - 1) // CLOUD_CHUNK):
        layers = world.machine.depth - start
        yield from world.cloud(world.machine.prices.forward(layers, CLOUD_CHUNK))


def _last_chunk(rows: int, chunk: int) -> int:
    return (rows - 1) % chunk + 1


Session = Callable[[World, Trace], Waiting]

# By kind; which deployment is of which kind is `deployments`' to say.
SESSIONS: Mapping[str, Session] = {
    "cloud-only": cloud_only,
    "standalone": standalone,
    "split": split,
    "naive split": naive_split,
    "collaborative": collaborative,
}
