"""Many edges on one cloud: what each is, and what follows in closed form.

Each edge has one user and a link of its own. Left out are memory (KV that would not fit, the growth
of attention with the text) and what a batch costs the event loop. `queueing` plays it.
"""

from dataclasses import dataclass
from typing import Literal

from benchmarks.paced.prices import FIRST_EXIT_SHARE, OFFLOADED_SHARE, paper_prices
from benchmarks.simulate.world import CLOUD_CHUNK, Machine, Software, Wire

NETWORK = Wire(rtt=20.0, up=30.0, down=30.0)


@dataclass(frozen=True, slots=True)
class Users:
    """What every edge is asked for: answers of `tokens` after prompts of `prompt`, with a pause of
    `think_s` on average between them (exponential).

    Args:
        tokens_per_s: the pace its reader takes tokens at; None for as fast as they come.
    """

    prompt: int = 20
    tokens: int = 100
    think_s: float = 10.0
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """One cloud and the edges on it.

    Args:
        kind: whether edges keep what they are sure of, or the cloud makes every token.
        first, offloaded: shares of tokens sure at the first exit, and of those the cloud chooses.
        budget: rows of a step.
    """

    kind: Literal["collaborative", "cloud-only"]
    machine: Machine
    wire: Wire
    users: Users = Users()
    first: float = FIRST_EXIT_SHARE
    offloaded: float = OFFLOADED_SHARE
    budget: int = CLOUD_CHUNK

    @property
    def asks(self) -> float:
        """Share of tokens that are a work of the cloud's engine."""
        return 1.0 if self.kind == "cloud-only" else self.offloaded

    @property
    def start(self) -> int:
        """Layer the cloud starts at."""
        return 0 if self.kind == "cloud-only" else self.machine.start

    def step_ms(self, rows: int) -> float:
        """A step of the cloud's engine."""
        return self.machine.cloud_pass(rows, self.start)

    def kept_ms(self) -> float:
        """A token the edge keeps, on average over its exits."""
        asked_twice = max(0.0, 1 - self.first - self.offloaded) / max(1e-9, 1 - self.offloaded)
        edge = self._lower_ms() + asked_twice * self._upper_ms()
        return self._paced(edge)

    def before_ms(self, prompt: int = 1) -> float:
        """From the token before to the arrival of a request; `prompt` rows at an answer's start."""
        machine, wire = self.machine, self.wire
        if self.kind == "cloud-only":
            if prompt == 1:
                # A session is in every step: its report is written while the next one runs.
                return self._paced(0.0)
            sent = wire.serialized(wire.block + wire.ids * prompt, wire.up)
            return wire.rtt / 2 + sent + machine.software.request
        edge = self._lower_ms() + self._upper_ms() + machine.lower(prompt) - machine.lower(1)
        if machine.last > machine.first:
            edge += machine.upper(prompt) - machine.upper(1)
        sent = wire.serialized(wire.block + prompt * wire.row, wire.up)
        return self._paced(edge) + machine.software.request + wire.rtt / 2 + sent

    def after_ms(self) -> float:
        """From the end of a step to the edge's next."""
        if self.kind == "cloud-only":
            return 0.0
        return self.wire.rtt / 2 + self.wire.serialized(self.wire.report, self.wire.down)

    def _lower_ms(self) -> float:
        return self.machine.lower(1) + self.machine.prices.head + self.machine.software.edge_step

    def _upper_ms(self) -> float:
        """Going on to the last exit, with those left behind since."""
        machine = self.machine
        if machine.last == machine.first:
            return 0.0
        return machine.upper(1) + machine.prices.head + self._behind_ms()

    def _behind_ms(self) -> float:
        one = self.machine.upper(2) - self.machine.upper(1)
        return one * self.first / (1 - self.first)

    def _paced(self, milliseconds: float) -> float:
        rate = self.users.tokens_per_s
        return max(milliseconds, 1e3 / rate) if rate else milliseconds

    def alone_tokens_per_s(self) -> float:
        """Tokens a second of a single edge, in closed form."""
        users, asked = self.users, self.asks
        one = self.before_ms() + self.step_ms(round(1 / asked)) + self.after_ms()
        first = self.before_ms(users.prompt) - self.before_ms()
        first += self.step_ms(users.prompt) - self.step_ms(1)
        token = asked * one + (1 - asked) * self.kept_ms()
        return 1e3 * users.tokens / (users.tokens * token + first * asked + 1e3 * users.think_s)

    def most_tokens_per_s(self) -> float:
        """Tokens a second with every step full: no fleet gets more, in closed form."""
        users = self.users
        rows_a_token = (users.prompt + users.tokens) / users.tokens
        return 1e3 * self.budget / self.step_ms(self.budget) / rows_a_token

    def bound(self) -> float:
        """Edges at which a fleet that never waited would ask for all the cloud can do."""
        return self.most_tokens_per_s() / self.alone_tokens_per_s()


def fleets(users: Users, software: Software) -> dict[str, Fleet]:
    """A 7B model's, with the paper's shares: the whole model in the cloud, or the cloud from a
    quarter or half of the depth on.
    """

    def of(start: int) -> Machine:
        prices = paper_prices()
        return Machine(prices, start, prices.depth // 2, start, software)

    quarter, half = of(8), of(16)
    return {
        "cloud-only": Fleet("cloud-only", quarter, NETWORK, users),
        "CE-CoLLM 49.6%": Fleet("collaborative", quarter, NETWORK, users),
        # One exit: what is kept is kept there.
        "CE-CoLLM 49.6%, half": Fleet(
            "collaborative", half, NETWORK, users, first=1 - OFFLOADED_SHARE
        ),
    }
