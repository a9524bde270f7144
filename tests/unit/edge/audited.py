"""Stand-ins for what an audit looks at: an observer, a cloud and an uplink to it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from services.edge.policy import Rules
from services.edge.spent import Spent
from shared.exits.audit import Audited
from shared.exits.policies import build
from shared.protocol.messages import Disagreement, Pressure, Report, Sampling

POLICY = build("single", {"threshold": 0.5})
TEXT = [(1, "exit:3"), (2, "cloud"), (3, "exit:3"), (4, "exit:6")]


@dataclass
class Told:
    """What the auditor tells its observer."""

    outcomes: list[str] = field(default_factory=list)
    served_tokens: int = 0
    requests: list[Audited] = field(default_factory=list)
    estimates: dict[tuple[str, float], Callable[[str], float]] = field(default_factory=dict)

    def audited(self, outcome: str, count: int) -> None:
        assert count >= 0
        self.outcomes.append(outcome)

    def ended(self, request: Audited) -> None:
        self.requests.append(request)

    def promised(self, text: str, target: float, estimate: Callable[[str], float]) -> None:
        self.estimates[text, target] = estimate

    def served(self, text: str, target: float, tokens: int) -> None:
        assert (text, target) in self.estimates
        self.served_tokens += tokens


def told_by(
    judged: int,
    disagreed: int,
    queued: int = 0,
    need_from: int | None = None,
    disagreements: tuple[Disagreement, ...] = (),
) -> Report:
    return Report(
        session="s",
        revision=0,
        sequence=1,
        through=5,
        digest=bytes(8),
        judged=judged,
        disagreed=disagreed,
        disagreements=disagreements,
        need_from=need_from,
        pressure=Pressure(queued=queued, allowed_nodes=0),
    )


class Cloud:
    """Answers blocks with these reports, or fails; `choices` is what it puts at the last place."""

    def __init__(self, *answers: Report | Exception, choices: tuple[int, ...] = (4,)) -> None:
        self.answers, self.choices, self.unsent = list(answers), choices, list[int]()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def post(self, blocks: Any, traffic: Any, at: Any, *, seconds: float) -> Report:
        assert seconds > 0
        await self.go_on.wait()
        traffic.bytes_up += 10
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def uplink_of(cloud: Cloud, *, usable: bool = True, queued: int = 0) -> Any:
    """An uplink whose cloud has judged one token of TEXT by the way, and found it wrong."""
    spent = Spent()
    spent.take(told_by(judged=1, disagreed=1, queued=queued))

    async def here() -> None:
        return None

    opening = SimpleNamespace(priority="normal", sampling=Sampling())
    return SimpleNamespace(
        chain=SimpleNamespace(
            opening=opening,
            cut=lambda want, count: (want, count),
            hear=lambda report: None,
            unsend=cloud.unsent.append,
            next_tokens=lambda report: cloud.choices,
        ),
        client=cloud,
        link=SimpleNamespace(usable=usable),
        observer=SimpleNamespace(requested=lambda *_: None),
        route=SimpleNamespace(here=here, better_elsewhere=False, key="k"),
        spent=spent,
        closing=None,
    )


def rules(mode: Any = "collaborative", **given: Any) -> Rules:
    return Rules(mode=mode, policy=POLICY, on_cloud_loss="degrade", **given)
