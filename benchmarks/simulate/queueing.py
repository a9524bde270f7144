"""A fleet played: the cloud's engine step by step, its queue, and the edges that fill it.

A step takes whatever waits, a row of each work first and the rest of the budget to the oldest, as
the model thread does. Edges are aggregated: what one does between two requests (tokens it keeps, a
new answer, its user's pause) is one draw, so that nothing but requests and steps are events and
100,000 edges take seconds.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

from benchmarks.simulate.fleet import Fleet

Floats = NDArray[numpy.floating[Any]]

LEAST_SECONDS, LEAST_TOKENS = 60.0, 20_000
# A token that takes this many times what it takes a fleet of one.
NOTICED = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a number of edges came to. `utilisation` is the share of time the engine runs, `fill`
    the share of a step's rows in use; gaps are those between the tokens of an answer.
    """

    edges: int
    tokens_per_s: float
    utilisation: float
    fill: float
    gap_p50_s: float
    gap_p95_s: float


def load(fleet: Fleet, edges: int, *, seed: int = 0) -> Load:
    """Simulate `edges` edges until their figures are steady."""
    seconds = _seconds(fleet, edges)
    cloud = Cloud(fleet, Edges(fleet, edges, numpy.random.default_rng(seed)))
    cloud.run(1e3 * seconds)
    cloud.count_from_now()
    cloud.run(2e3 * seconds)
    return cloud.told(edges, seconds)


def noticed_at(fleet: Fleet) -> int:
    """The smallest number of edges, within a hundredth, of which each gets half of the tokens a
    second it would get alone, users' pauses apart.
    """
    alone = _seconds_a_token(fleet, load(fleet, 1))

    def noticed(edges: int) -> bool:
        return _seconds_a_token(fleet, load(fleet, edges)) >= NOTICED * alone

    low = high = 1
    while not noticed(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if noticed(middle) else (middle, high)
    return high


def _seconds_a_token(fleet: Fleet, found: "Load") -> float:
    """Seconds a token takes one edge while it generates."""
    users = fleet.users
    return found.edges / found.tokens_per_s - users.think_s / users.tokens


def _seconds(fleet: Fleet, edges: int) -> float:
    """Long enough for a queue to fill and for enough tokens; measured for as long again."""
    wanted = edges * fleet.alone_tokens_per_s()
    round_s = edges / (fleet.most_tokens_per_s() * fleet.asks)
    answers = 2 * (fleet.users.think_s + fleet.users.tokens / fleet.alone_tokens_per_s())
    enough = LEAST_TOKENS / min(wanted, fleet.most_tokens_per_s())
    return max(LEAST_SECONDS, answers * (edges < 1000), 1.5 * round_s, enough)


@dataclass(slots=True)
class Edges:
    """Every edge between two requests: `left` tokens of its answer, `held` rows since its last
    request, and whether the next request is an answer's first.
    """

    fleet: Fleet
    count: int
    draw: numpy.random.Generator
    left: NDArray[numpy.int64] = field(init=False)
    held: NDArray[numpy.int64] = field(init=False)
    fresh: NDArray[numpy.bool_] = field(init=False)
    kept: int = 0

    def __post_init__(self) -> None:
        users = self.fleet.users
        # Somewhere in an answer each: a fleet that starts as one would move as one.
        self.left = self.draw.integers(0, users.tokens + 1, self.count)
        self.held = numpy.zeros(self.count, numpy.int64)
        self.fresh = numpy.zeros(self.count, bool)

    def begin(self) -> Floats:
        """Milliseconds to every edge's first request, spread over an answer."""
        first = self.next(numpy.arange(self.count))
        whole = 1e3 * self.fleet.users.tokens / self.fleet.alone_tokens_per_s()
        spread: Floats = first + self.draw.uniform(0, whole, self.count)
        return spread

    def next(self, edges: NDArray[numpy.int64]) -> Floats:
        """Milliseconds from each edge's last token to its next request reaching the cloud; the
        tokens kept meanwhile are counted.
        """
        waits = numpy.zeros(len(edges))
        pending = numpy.arange(len(edges))
        while len(pending):
            whom = edges[pending]
            kept = self.draw.geometric(self.fleet.asks, len(whom)) - 1
            ends = kept >= self.left[whom]
            made = numpy.where(ends, self.left[whom], kept)
            waits[pending] += made * self.fleet.kept_ms()
            self.held[whom] += made
            self.left[whom] -= made
            self.kept += int(made.sum())
            over = whom[ends]
            waits[pending[ends]] += self.draw.exponential(1e3 * self.fleet.users.think_s, len(over))
            self.left[over] = self.fleet.users.tokens
            self.held[over] = self.fleet.users.prompt - 1
            self.fresh[over] = True
            pending = pending[ends]
        prompt = self.fleet.users.prompt
        waits += numpy.where(
            self.fresh[edges], self.fleet.before_ms(prompt), self.fleet.before_ms()
        )
        self.left[edges] -= 1
        self.held[edges] += 1
        return waits


@dataclass(slots=True)
class Cloud:
    """The engine with its queue: works are (edge, rows left, when the token before came)."""

    fleet: Fleet
    edges: Edges
    now: float = 0.0
    busy: float = 0.0
    rows: int = 0
    steps: int = 0
    made: int = 0
    kept_before: int = 0
    gaps: list[Floats] = field(default_factory=list)
    _coming: list[tuple[float, int]] = field(default_factory=list)
    _waiting: "deque[list[int]]" = field(default_factory=deque)
    _asked: Floats = field(init=False)

    def __post_init__(self) -> None:
        at = self.edges.begin()
        self._asked = at - self.fleet.before_ms()
        self._coming = [(float(when), edge) for edge, when in enumerate(at)]
        heapq.heapify(self._coming)

    def count_from_now(self) -> None:
        """Forget the figures so far."""
        self.busy, self.rows, self.steps, self.made = 0.0, 0, 0, 0
        self.kept_before, self.gaps = self.edges.kept, []

    def run(self, until: float) -> None:
        """Run steps until `until` milliseconds."""
        while self.now < until:
            if not self._waiting:
                self.now = max(self.now, self._coming[0][0])
            while self._coming and self._coming[0][0] <= self.now:
                _, edge = heapq.heappop(self._coming)
                self._waiting.append([edge, int(self.edges.held[edge])])
            self._step()

    def _step(self) -> None:
        works = [self._waiting.popleft() for _ in range(min(self.fleet.budget, len(self._waiting)))]
        left = self.fleet.budget - len(works)
        finished: list[int] = []
        unfinished: list[list[int]] = []
        for work in works:
            more = min(work[1] - 1, left)
            left -= more
            work[1] -= 1 + more
            if work[1]:
                unfinished.append(work)
            else:
                finished.append(work[0])
        self._waiting.extendleft(reversed(unfinished))
        rows = self.fleet.budget - left
        took = self.fleet.step_ms(rows)
        self.now += took
        self.busy += took
        self.rows += rows
        self.steps += 1
        if finished:
            self._answer(numpy.array(finished))

    def _answer(self, whom: NDArray[numpy.int64]) -> None:
        """Give the edges their tokens and see when they ask again."""
        came = self.now + self.fleet.after_ms()
        within = whom[~self.edges.fresh[whom]]
        self.gaps.append(came - self._asked[within])
        self.made += len(whom)
        self.edges.held[whom] = 0
        self.edges.fresh[whom] = False
        at = came + self.edges.next(whom)
        self._asked[whom] = at - self.fleet.before_ms()
        for when, edge in zip(at.tolist(), whom.tolist(), strict=True):
            heapq.heappush(self._coming, (when, edge))

    def told(self, edges: int, seconds: float) -> Load:
        """The figures since `count_from_now`."""
        kept = self.edges.kept - self.kept_before
        low, high = _percentiles(numpy.concatenate(self.gaps), self.fleet.kept_ms(), kept)
        return Load(
            edges=edges,
            tokens_per_s=(self.made + kept) / seconds,
            utilisation=min(1.0, self.busy / (1e3 * seconds)),
            fill=self.rows / self.steps / self.fleet.budget,
            gap_p50_s=low / 1e3,
            gap_p95_s=high / 1e3,
        )


def _percentiles(gaps: Floats, other: float, count: int) -> Sequence[float]:
    """Median and 95th percentile of `gaps` together with `count` times `other`."""
    seen = numpy.sort(numpy.append(gaps, other))
    weights = numpy.where(seen == other, max(1, count), 1)
    places = numpy.cumsum(weights) / weights.sum()
    return [float(seen[numpy.searchsorted(places, share)]) for share in (0.5, 0.95)]
