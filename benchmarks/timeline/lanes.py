"""From what was noted to what is drawn: steps, messages, waits and bursts of one request, in
milliseconds since it was asked. It draws nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.measure import PAUSE_SECONDS
from benchmarks.network.proxy import Crossing
from benchmarks.paced.model import Ran
from benchmarks.timeline.record import Recording

# What asks how the cloud is, every 2 s, and is no part of a request.
_LOOKS = ("GET ",)


@dataclass(frozen=True, slots=True)
class Span:
    """Something under way; `rows` in it."""

    began: float
    ended: float
    rows: int


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes that crossed together: put on the network from `sent` to `left`, there from `first` to
    `last`.
    """

    sent: float
    left: float
    first: float
    last: float
    size: int


@dataclass(frozen=True, slots=True)
class Burst:
    """Tokens that came at once: their sources, in order."""

    at: float
    sources: Sequence[str]


@dataclass(frozen=True, slots=True)
class Lanes:
    """What is drawn of a request that took `total` ms.

    Args:
        passes: of the cloud, over states, or (`cloud` mode) over a prompt's ids.
        alone: passes of the cloud by the whole model in a session whose states the edge makes: it
            runs ahead, or makes a prompt's states.
        waits: without a step of the edge under way.
    """

    total: float
    steps: Sequence[Span]
    passes: Sequence[Span]
    alone: Sequence[Span]
    up: Sequence[Message]
    down: Sequence[Message]
    waits: Sequence[Span]
    bursts: Sequence[Burst]


def lanes(recording: Recording) -> Lanes:
    """Sort what was noted."""
    began, arrivals = recording.stream.began, recording.stream.arrivals
    total = 1e3 * (arrivals[-1] - began)
    steps = [_span(calls, began) for calls in _steps(recording.edge)]
    passes = _steps(recording.cloud)
    alone = [calls for calls in passes if _is_alone(calls, recording.split)]
    crossings = [c for c in recording.crossings if not _looks(c, recording.crossings)]
    up, down = _messages(crossings, began)
    return Lanes(
        total,
        steps,
        [_span(calls, began) for calls in passes if calls not in alone],
        [_span(calls, began) for calls in alone],
        up,
        down,
        list(_waits(steps, total)),
        _bursts(recording),
    )


def _steps(calls: Iterable[Ran]) -> list[list[Ran]]:
    """Calls by the engine's steps, or parts of one between which the device was another's."""
    found: list[list[Ran]] = []
    for call in calls:
        if not found or not _goes_on(found[-1][-1], call):
            found.append([])
        found[-1].append(call)
    return found


def _goes_on(before: Ran, call: Ran) -> bool:
    """Whether a call is of the same step: a pass that first runs what is behind below its tap is
    one with it.
    """
    if call.began - before.ended > PAUSE_SECONDS:
        return False
    behind = before.first == 0 < before.last < call.last and not before.tapped
    return not call.begins or (call.tapped and behind)


def _is_alone(calls: Sequence[Ran], split: int) -> bool:
    return split > 0 and any(call.tapped and call.first == 0 for call in calls)


def _span(calls: Sequence[Ran], began: float) -> Span:
    rows = max(call.rows for call in calls)
    return Span(1e3 * (calls[0].began - began), 1e3 * (calls[-1].ended - began), rows)


def _looks(crossing: Crossing, crossings: Sequence[Crossing]) -> bool:
    """Whether it is of a look at the cloud: the last that went up before it on its connection."""
    asked = [
        c
        for c in crossings
        if c.way == "up" and c.connection == crossing.connection and c.sent <= crossing.sent
    ]
    return not asked or asked[-1].opening.startswith(_LOOKS)


def _messages(crossings: Sequence[Crossing], began: float) -> tuple[list[Message], list[Message]]:
    """Requests: all that goes up on a connection until something comes down; then what comes down,
    apart where there is a pause.
    """
    groups: dict[str, list[list[Crossing]]] = {"up": [], "down": []}
    for connection in sorted({c.connection for c in crossings}):
        own = sorted((c for c in crossings if c.connection == connection), key=lambda c: c.sent)
        last: Crossing | None = None
        for crossing in own:
            apart = last is None or last.way != crossing.way
            if crossing.way == "down" and last is not None:
                apart = apart or crossing.sent - last.left > PAUSE_SECONDS
            if apart:
                groups[crossing.way].append([])
            groups[crossing.way][-1].append(crossing)
            last = crossing
    up, down = ([_message(group, began) for group in groups[way]] for way in ("up", "down"))
    return up, down


def _message(group: Sequence[Crossing], began: float) -> Message:
    first, last = group[0], group[-1]
    delay = first.arrived - first.left
    return Message(
        1e3 * (first.sent - began),
        1e3 * (last.left - began),
        1e3 * (first.sent + delay - began),
        1e3 * (last.arrived - began),
        sum(crossing.size for crossing in group),
    )


def _waits(steps: Sequence[Span], total: float) -> Iterable[Span]:
    """Between the edge's steps, and before and after them."""
    edges = [(0.0, 0.0), *((step.began, step.ended) for step in steps), (total, total)]
    for (_, ended), (began, _) in pairwise(edges):
        if began - ended > 1e3 * PAUSE_SECONDS:
            yield Span(ended, began, 0)


def _bursts(recording: Recording) -> list[Burst]:
    sources = [token["source"] for token in recording.details["tokens"]]
    arrivals = recording.stream.arrivals
    found: list[Burst] = []
    last = -PAUSE_SECONDS
    for source, arrival in zip(sources, arrivals, strict=True):
        at = 1e3 * (arrival - recording.stream.began)
        if found and arrival - last <= PAUSE_SECONDS:
            found[-1] = Burst(found[-1].at, [*found[-1].sources, source])
        else:
            found.append(Burst(at, [source]))
        last = arrival
    return found
