"""Who goes into the next step of an engine, and with how many rows: emergencies first, the others
by what their clients were served, and nobody waits for ever.

A pure policy over what waits; it knows neither engines, threads nor clocks. Fairness counts the
rows served to each client (the virtual token counter of Sheng et al., "Fairness in Serving Large
Language Models", OSDI 2024): whose client was served least goes first, and a client that comes
starts level with the least served of the others.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import Protocol

from shared.runtime.line import Line
from shared.runtime.work import Claim

# A work of fewer rows is somebody's next token, or drafts for it; a longer one is a prompt.
SHORT = 16
# Whoever's token was run so little ago is back in a moment, from the other service or its user.
RECENT_SECONDS = 1.0
# An emergency is waited for until so much later, and so many times its last absence, than it should
# be back.
LATE_SECONDS = 0.005
LATE = 0.5
# A client is forgotten after so many seconds, or when so many others came after it.
CLIENT_SECONDS = 10.0
MOST_CLIENTS = 1024
# Full steps a client that asks for little can fall behind the most served one: what it may have
# ahead of others when it asks for much.
MOST_BEHIND = 2


class Waiting(Protocol):
    """What waits for a step."""

    @property
    def claim(self) -> Claim:
        """For whom it is."""
        ...

    @property
    def rows(self) -> int:
        """Rows it still has to run; at least 1."""
        ...

    @property
    def since(self) -> float:
        """When it came, or was in a step last, in seconds."""
        ...


@dataclass(slots=True)
class _Client:
    served: float
    seen: float


@dataclass(slots=True)
class _Recent:
    """A session that was in a step: when that ended, and how long it stayed away the last time (or
    the emergency before it did).
    """

    ended: float
    away: float

    def wait(self, now: float, ends: float) -> float:
        """Seconds to wait for it rather than begin a step now that ends at `ends`."""
        back = self.ended + self.away
        return max(0.0, back + LATE_SECONDS + LATE * self.away - now) if ends > back else 0.0


@dataclass(slots=True)
class Schedule:
    """Shares the rows of steps out.

    Args:
        most: rows of a step.
        stretch: how many times longer a step may take for the rows of a prompt beside others'
            tokens, by a line through measured steps.
        beside: rows of a step that others' tokens may have while an emergency is served; at least
            1.
        patience: seconds after which a work is in the next step whatever else waits.
    """

    most: int
    stretch: float = math.inf
    beside: int = 4
    patience: float = 1.0
    line: Line = field(default_factory=Line)
    _clients: dict[str, _Client] = field(default_factory=dict)
    _recent: dict[Claim, _Recent] = field(default_factory=dict)
    _away: float = 0.0

    def hold(self, waiting: Sequence[Waiting], now: float) -> float:
        """Seconds a step should yet wait for an emergency that is about to come back, by how long
        it was away last; 0 where none is, or where the step ends before it comes. Whoever has
        waited for too long goes with it.

        Without it the step of others that begins in between makes every token of it as much later
        (the "deceptive idleness" of Iyer and Druschel, "Anticipatory scheduling", SOSP 2001).
        """
        away = [seen for claim, seen in self._recent.items() if _goes_on(claim)]
        if not away or any(each.claim.urgent for each in waiting):
            return 0.0
        ends = now + self.line.at(min(self.beside, len(waiting)))
        return max(seen.wait(now, ends) for seen in away)

    def share(self, waiting: Sequence[Waiting], now: float) -> list[int]:
        """Rows of each of `waiting` (at least one, oldest first) in the next step; 0 parks it.

        The short works come first, so that nobody's token waits for a prompt; what is left goes to
        the prompts in order, so that they end one after the other.
        """
        self._meet(waiting, now)
        pressed = any(map(_goes_on, self._recent)) or any(each.claim.urgent for each in waiting)
        late = {n for n, each in enumerate(waiting) if now - each.since >= self.patience}
        prompts = self._in_turn(waiting)
        first = prompts[:1]
        if pressed and len(prompts) < len(waiting):
            first = [n for n in first if waiting[n].claim.urgent]
        if pressed:
            prompts = [n for n in prompts if waiting[n].claim.urgent or n in late]
        given = [0] * len(waiting)
        left, few = self.most, self.beside if pressed else self.most
        for n in self._order(waiting, late, first, pressed=pressed):
            others = not waiting[n].claim.urgent
            room = min(left, max(few, 1 if n in late else 0)) if others else left
            given[n] = min(1 if n in prompts else waiting[n].rows, room)
            left -= given[n]
            few -= given[n] if others else 0
        self._add_prompts(waiting, given, prompts)
        return given

    def ran(self, batch: Iterable[tuple[Claim, int, bool]], seconds: float, now: float) -> None:
        """Take in a step that has ended, as (claim, rows, whether the work was short) of each."""
        rows = 0
        for claim, count, short in batch:
            rows += count
            client = self._clients.get(claim.client)
            if client is not None:
                client.served += count
            if short or claim.urgent:
                seen = self._recent.setdefault(claim, _Recent(now, self._away))
                seen.ended = now
        self.line.take(rows, seconds)

    def _meet(self, waiting: Sequence[Waiting], now: float) -> None:
        """Note who is there, and forget who is not any more."""
        for claim in [c for c, s in self._recent.items() if _is_gone(c, s, now)]:
            del self._recent[claim]
        for each in waiting:
            seen = self._recent.get(each.claim)
            if seen is not None and each.since > seen.ended:
                seen.away = each.since - seen.ended
                if each.claim.urgent:
                    self._away = seen.away
        present = {each.claim.client for each in waiting}
        clients = self._clients
        for name in present:
            known = clients.pop(name, None)
            least = min((client.served for client in clients.values()), default=0.0)
            clients[name] = known or _Client(least, now)
            clients[name].seen = now
        most = max(MOST_CLIENTS, len(present))
        for name in list(clients):  # whoever was seen longest ago first
            if len(clients) <= most and now - clients[name].seen <= CLIENT_SECONDS:
                break
            del clients[name]
        floor = max(client.served for client in clients.values()) - MOST_BEHIND * self.most
        for name in present:
            clients[name].served = max(clients[name].served, floor)

    def _order(
        self, waiting: Sequence[Waiting], late: Set[int], first: Sequence[int], *, pressed: bool
    ) -> list[int]:
        """Places in the order in which rows are given out: whoever has waited for too long the
        longest, emergencies, while there are any the others who have waited for too long, and the
        rest; of the prompts that did not, only the `first`.
        """
        oldest = sorted(late, key=lambda n: waiting[n].since)[:1]
        left = [n for n in range(len(waiting)) if n not in oldest]
        able = [n for n in left if n in first or not _is_long(waiting[n])]
        urgent = [n for n in able if waiting[n].claim.urgent]
        aged = [n for n in left if n in late and not waiting[n].claim.urgent] if pressed else []
        rest = [n for n in able if n not in aged and not waiting[n].claim.urgent]
        return [*oldest, *(n for part in (urgent, aged, rest) for n in self._fair(waiting, part))]

    def _add_prompts(
        self, waiting: Sequence[Waiting], given: list[int], prompts: Sequence[int]
    ) -> None:
        """Give prompts, in order, the rows that are left, where they hold up another's token only
        as many as the step's stretch allows.
        """
        before = sum(given)
        beside = [each.claim for n, each in enumerate(waiting) if given[n] and not _is_long(each)]
        for n in prompts:
            own = 0 if given[n] else 1
            room = self.most - sum(given)
            if self._is_awaited(waiting[n].claim, beside):
                room = min(room, own + self._room(before + own) - (sum(given) - before))
            given[n] += max(0, min(waiting[n].rows - given[n], room))

    def _fair(self, waiting: Sequence[Waiting], places: Iterable[int]) -> list[int]:
        """Places in turn: of the client served least, counting what comes before in this very
        order, whoever waits longest.
        """
        queues: dict[str, deque[int]] = defaultdict(deque)
        for n in sorted(places, key=lambda n: waiting[n].since):
            queues[waiting[n].claim.client].append(n)
        if len(queues) == 1:
            return list(*queues.values())
        heap = [
            (self._clients[client].served, waiting[queue[0]].since, client)
            for client, queue in queues.items()
        ]
        heapify(heap)
        order: list[int] = []
        while heap:
            served, _, client = heap[0]
            queue = queues[client]
            order.append(queue.popleft())
            if queue:
                heapreplace(heap, (served + 1, waiting[queue[0]].since, client))
            else:
                heappop(heap)
        return order

    def _in_turn(self, waiting: Sequence[Waiting]) -> list[int]:
        """Places of prompts in order: emergencies, then of the client served least, then by age."""

        def rank(n: int) -> tuple[bool, float, int]:
            claim = waiting[n].claim
            return not claim.urgent, self._clients[claim.client].served, n

        return sorted((n for n, each in enumerate(waiting) if _is_long(each)), key=rank)

    def _is_awaited(self, own: Claim, beside: Iterable[Claim]) -> bool:
        """Whether rows of a session's prompt hold up a token of another that it may not overtake:
        one in this step, or one that is back in a moment.
        """
        live = (claim for claim in self._recent if claim.live)
        return any(
            claim is not own and (claim.urgent or not own.urgent) for claim in (*beside, *live)
        )

    def _room(self, rows: int) -> int:
        """Rows that may join so many without the step taking more than `stretch` times as long;
        where nothing is known yet, all there are.
        """
        if not self.line.slope or self.stretch == math.inf:
            return self.most
        # A line through steps of many rows may say that few take less than nothing.
        seconds = max(0.0, self.line.at(rows))
        return int((self.stretch - 1) * seconds / self.line.slope)


def is_short(rows: int) -> bool:
    """Whether a work of so many rows is a token, or drafts for one."""
    return rows <= SHORT


def _is_long(each: Waiting) -> bool:
    return not is_short(each.rows)


def _goes_on(claim: Claim) -> bool:
    return claim.urgent and claim.live


def _is_gone(claim: Claim, seen: _Recent, now: float) -> bool:
    return not claim.live or now - seen.ended >= RECENT_SECONDS
