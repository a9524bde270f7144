"""Which plan a verified text goes on by: a pure choice from what was measured.

Closed forms, checked against runs in virtual time (decisions/0008). With the edge's step `e`, the
cloud's pass over states `v`, its full step `f`, the round trip `r` and the share `m` of tokens no
draft had, a token takes `e + m (r + v + e/2)` while the edge drafts: a miss costs a round trip, a
pass and half a step. A cloud that goes on by itself after a miss gains a token every `f` of that
time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.edge.paces import Paces
from services.edge.policy import Pacing, Plan
from shared.runtime.line import Line

PLANS: Sequence[Plan] = ("draft", "assist", "race", "cloud")
# Another plan must be better by this share before it is taken up.
HYSTERESIS = 0.05
WHOLE = 131_072
# A draft is sent where what it may spare is worth this many times its way, but for those likelier
# than the second: the best of 1, 2, 4 and 8 in virtual time at 5, 10 and 30 Mbit/s.
_WAY_FACTOR = 2.0
_MOST_WITHHELD = 0.5
# However dear a row is measured to be, drafts likelier than this are run.
_MOST_UNRUN = 0.3
# After so many steps none counts for more than so many times the usual one.
_SURE_STEPS, _LONGEST_STEP = 8, 4
# Of so many texts under another plan one is drafted.
EXPLORED = 16
# Steps or tokens an average remembers.
MEMORY = 400
# Tokens that what is assumed of shares counts for.
ASSUMED = 40
_INSTANT = 1e-9  # seconds; stands for none where one divides by them


@dataclass(slots=True)
class Measured:
    """What this edge has seen, in seconds and shares; averages that forget what is more than MEMORY
    steps or tokens ago.

    Attributes:
        edge: an edge step over drafts.
        verify: a pass of the cloud over states.
        missed: share of tokens no draft had.
        passes: passes a token.
        tokens: of texts under the plan `draft` so far; the others say nothing of drafts.
        steps: of the edge so far.
    """

    edge: float = 0.0
    verify: float = 0.0
    missed: float = 0.1
    passes: float = 0.4
    tokens: int = 0
    steps: int = 0

    def step(self, seconds: float) -> None:
        """Take in an edge step over drafts."""
        self.steps += 1
        self.edge += (seconds - self.edge) / min(self.steps, MEMORY)

    def take(self, tokens: int, *, verify: float, missed: float, passes: float) -> None:
        """Take in the averages of a text of so many tokens. A short one says little of shares."""
        known = min(self.tokens, MEMORY)
        weight = tokens / (known + tokens)
        self.verify += weight * (verify - self.verify)
        weight = tokens / (known + ASSUMED + tokens)
        self.missed += weight * (missed - self.missed)
        self.passes += weight * (passes - self.passes)
        self.tokens += tokens


def missed_seconds(seen: Measured, round_trip: float) -> float:
    """What a token costs that no draft had; a pass not seen yet is taken for an edge step."""
    return round_trip + (seen.verify or seen.edge) + seen.edge / 2


def cost(
    plan: Plan,
    seen: Measured,
    *,
    full: float,
    round_trip: float,
    ahead: int,
    row_seconds: float = 0.0,
) -> tuple[float, float]:
    """Return (seconds, cloud seconds) a token under a plan.

    Args:
        full: the cloud's step through all layers.
        row_seconds: a state's time on the uplink; a token takes at least as long.
    """
    if plan == "cloud":
        return full, full
    gap = missed_seconds(seen, round_trip)
    alone = max(seen.edge, row_seconds) + seen.missed * gap
    if plan == "draft":
        return alone, seen.passes * seen.verify
    gained = gap / full if plan == "race" else min(float(ahead), gap / full)
    seconds = alone / (1 + seen.missed * gained)
    if plan == "race":
        seconds = min(seconds, full)
        return seconds, seconds
    return seconds, seen.passes * seen.verify + seen.missed * gained * full


def choose(
    current: Plan,
    seen: Measured,
    *,
    full: float,
    round_trip: float,
    price: float,
    ahead: int,
    able: bool,
    row_seconds: float = 0.0,
) -> Plan:
    """Choose the plan with the least `seconds + price x cloud seconds` a token.

    Args:
        current: kept unless another is better by HYSTERESIS.
        able: the cloud can go on by itself (it has every layer, in the edge's format).
    """
    if not able:
        return "draft"
    if not seen.tokens:
        return "draft"

    def worth(plan: Plan) -> float:
        seconds, cloud = cost(
            plan, seen, full=full, round_trip=round_trip, ahead=ahead, row_seconds=row_seconds
        )
        return seconds + price * cloud

    best = min(PLANS, key=worth)
    return best if worth(best) < worth(current) * (1 - HYSTERESIS) else current


def paced(base: Pacing, plan: Plan, *, ahead: int) -> Pacing:
    """The pacing of a plan."""
    base = replace(base, plan=plan)
    if plan == "draft":
        return replace(base, ahead=0, racing=False)
    if plan == "assist":
        return replace(base, ahead=ahead, racing=False)
    return replace(base, ahead=WHOLE, racing=True, width=base.width if plan == "race" else 0)


@dataclass(slots=True)
class Controller:
    """Plans the texts of one edge.

    Args:
        base: how a tree is drafted, whatever the plan.
        fixed: a plan the operator has chosen; None chooses.
        price: what a second of the cloud is worth, in seconds of waiting.
        ahead: tokens the cloud goes on for in `assist`.
        upper: share of the model's layers a pass over states runs.
        rows: seconds of the edge's steps over drafts, by their rows.
        paces: of texts, which decide where time alone counts.
    """

    base: Pacing
    fixed: Plan | None
    price: float
    ahead: int
    upper: float
    seen: Measured
    plan: Plan = "draft"
    rows: Line = field(default_factory=Line)
    paces: Paces = field(default_factory=Paces)
    _texts: int = 0

    def pacing(
        self,
        round_trip: float | None,
        *,
        able: bool,
        row_seconds: float = 0.0,
        exploring: bool = False,
    ) -> Pacing:
        """How a text goes on now.

        Args:
            round_trip: to the cloud, seconds; None while unknown.
            able: the cloud can go on by itself.
            row_seconds: a state's time on the uplink.
            exploring: the text is drafted, whatever the plan.
        """
        way = round_trip or 0.0
        if self.fixed is not None:
            self.plan = self.fixed if able else "draft"
        elif self.price == 0 and able:
            self.plan = self.paces.current
        else:
            self.plan = choose(
                self.plan,
                self.seen,
                full=max(self.seen.verify / self.upper, _INSTANT),
                round_trip=way,
                price=self.price,
                ahead=self.ahead,
                able=able,
                row_seconds=row_seconds,
            )
        pacing = paced(self.base, "draft" if exploring else self.plan, ahead=self.ahead)
        if not self.seen.steps:
            return pacing
        # A row is worth its time, in the step and on the uplink, where the miss it may spare costs
        # more.
        miss = max(missed_seconds(self.seen, way), _INSTANT)
        return replace(
            pacing,
            floor=max(pacing.floor, min(self.rows.slope / miss, _MOST_UNRUN)),
            least=min(_WAY_FACTOR * row_seconds / miss, _MOST_WITHHELD),
        )

    def ran(self, rows: int, seconds: float, *, whole: bool) -> None:
        """Take in an edge step over so many drafts; `whole` where these, and no other rows, went
        through all the layers.
        """
        if self.seen.steps > _SURE_STEPS:
            # A stall says nothing of rows, and would be remembered for long.
            seconds = min(seconds, _LONGEST_STEP * self.seen.edge)
        self.seen.step(seconds)
        if whole:
            self.rows.take(rows, seconds)

    def explores(self) -> bool:
        """Whether a text that begins now should be drafted whatever the plan: only drafting shows
        what drafts are worth. Never where time alone counts.
        """
        self._texts += 1
        free = self.fixed is None and self.price > 0
        return free and self.plan != "draft" and self._texts % EXPLORED == 0
