"""The paper's own run from its unit costs, and the way from our measured row to it.

Source: CE-CoLLM, arXiv 2411.02829, its Alpaca table: 100 prompts of 19.58 tokens on average and the
one that begins a text (its traffic is that of 20.58 + 99 positions), 100 tokens each, 49.58 %
offloaded; its link carried 31.9 Mbit/s, and a request took 2.85 ms of communication, of which a
state of 8192 bytes is 2.05.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.paced.prices import (
    FIRST_EXIT_SHARE,
    OFFLOADED_SHARE,
    PAPER_DEPTH,
    PAPER_FIRST_EXIT,
    PAPER_LAST_EXIT,
    Prices,
    paper_prices,
)
from benchmarks.report.paper_table import PUBLISHED
from benchmarks.simulate.replay import Result, replay
from benchmarks.simulate.sessions import Trace
from benchmarks.simulate.world import Machine, Software, Wire

PROMPTS, TOKENS, MEAN_PROMPT = 100, 100, 20.58
COMMUNICATION_MS, MBIT, STATE_BYTES = 2.85, 31.9, 8192
# Bodies are the states and little else: its traffic is explained to a thousandth without headers.
LINK = Wire(
    rtt=COMMUNICATION_MS - Wire().serialized(STATE_BYTES, MBIT),
    up=MBIT,
    down=MBIT,
    row=STATE_BYTES,
    block=0,
    report=0,
)


# With its edge at what it took in collaborative mode, which is 5 % less than alone.
COLLABORATIVE = ("cloud-only", "collaborative edge", "cloud pass")


def machine(prices: Prices) -> Machine:
    """The paper's partition: exits after layers 8 and 16, cloud from layer 16 on, by the fit."""
    return Machine(prices, PAPER_FIRST_EXIT, PAPER_LAST_EXIT, PAPER_LAST_EXIT)


def traces(first: int = PAPER_FIRST_EXIT, last: int = PAPER_LAST_EXIT) -> list[Trace]:
    """Answers with exactly the paper's shares, in an order shuffled with a fixed seed."""
    every = PROMPTS * TOKENS
    kept, asked = round(FIRST_EXIT_SHARE * every), round(OFFLOADED_SHARE * every)
    sources = [f"exit:{first}"] * kept + ["cloud"] * asked
    sources += [f"exit:{last}"] * (every - len(sources))
    random.Random(0).shuffle(sources)
    longer = round((MEAN_PROMPT % 1) * PROMPTS)
    return [
        Trace(int(MEAN_PROMPT) + (n < longer), sources[n * TOKENS : (n + 1) * TOKENS])
        for n in range(PROMPTS)
    ]


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A deployment simulated beside its published total; seconds. `edge` is which of the paper's
    edge times the prices meet.
    """

    name: str
    edge: str
    published_s: float
    result: Result

    @property
    def error(self) -> float:
        """Relative, of the total."""
        return self.result.total_s / self.published_s - 1


def reproduce() -> list[Reproduced]:
    """The paper's table, and its collaborative row once more with its own edge time there."""
    answers = traces()
    every = [Trace(each.prompt_tokens, ["cloud"] * TOKENS) for each in answers]
    resent = replace(LINK, row=2 * STATE_BYTES)
    alone, together = machine(paper_prices()), machine(paper_prices(COLLABORATIVE))
    return [
        _reproduced("cloud-only", "cloud-only", alone, LINK, answers),
        _reproduced("naive split", "naive split", alone, resent, every),
        _reproduced("standalone", "standalone", alone, LINK, answers),
        _reproduced("CE-CoLLM 49.6%", "collaborative", alone, LINK, answers),
        _reproduced("CE-CoLLM 49.6%", "collaborative", together, LINK, answers),
    ]


def _reproduced(
    name: str, kind: str, own: Machine, wire: Wire, answers: Sequence[Trace]
) -> Reproduced:
    edge = "standalone" if own.prices == paper_prices() else "collaborative"
    published = next(line.total_s for line in PUBLISHED if name in line.ours)
    return Reproduced(name, edge, published, replay(kind, own, wire, answers))


def break_even_ms() -> float:
    """Round trip beyond the paper's own at which its collaborative mode takes as long as
    cloud-only, by bisection.
    """
    own, answers = machine(paper_prices(COLLABORATIVE)), traces()
    low, high = 0.0, 100.0
    while high - low > 0.05:
        middle = (low + high) / 2
        wire = replace(LINK, rtt=LINK.rtt + middle)
        split, whole = (replay(k, own, wire, answers) for k in ("collaborative", "cloud-only"))
        low, high = (middle, high) if split.total_s < whole.total_s else (low, middle)
    return low


@dataclass(frozen=True, slots=True)
class Stage:
    """One step on the way from our row to the paper's: ratios to cloud-only under the same
    conditions.
    """

    what: str
    total: float
    cloud: float


def way_to_the_paper(ours: Sequence[Trace], wire: Wire, software: Software) -> list[Stage]:
    """What differs between our row `CE-CoLLM 49.6%, half` and the paper's, one thing at a time.

    Args:
        ours: its traces (an exit before half of the depth, where the cloud starts too).
        wire: the network it was measured on.
        software: as fitted.
    """
    half = PAPER_DEPTH // 2
    named = [
        Trace(t.prompt_tokens, [s if s == "cloud" else f"exit:{half}" for s in t.sources])
        for t in ours
    ]
    own = Machine(paper_prices(), half, half, half, software)
    bare = own.with_software(Software())
    return [
        _stage("ours, simulated", own, wire, named),
        _stage("software that takes no time", bare, wire, named),
        _stage("and the paper's link", bare, LINK, named),
        _stage("and its prompts, lengths and share offloaded", bare, LINK, traces(half, half)),
        _stage("and its first exit at a quarter", machine(paper_prices()), LINK, traces()),
        _stage("and its edge's own time", machine(paper_prices(COLLABORATIVE)), LINK, traces()),
    ]


def _stage(what: str, own: Machine, wire: Wire, answers: Sequence[Trace]) -> Stage:
    found = replay("collaborative", own, wire, answers)
    base = replay("cloud-only", own, wire, answers)
    return Stage(what, found.total_s / base.total_s, found.cloud_s / base.total_s)
