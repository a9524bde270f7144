"""What clients saw of an overload, held against what the services counted.

Pure sums over what was noted; it starts nothing and asks nobody.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cli.load.requests import UNFINISHED, Seen
from cli.load.summary import spread

# What a client is told in the place of an answer, and the counters of the edge that say so.
TOO_MUCH, NO_ROOM = 429, 503
REASONS = {TOO_MUCH: ("limited",), NO_ROOM: ("overloaded", "out_of_memory", "draining")}
FAILURES = "tandem_request_failures_total"
SUCCESS = "tandem_request_success_total"

Counters = Mapping[str, float]


@dataclass(slots=True)
class Replies:
    """Status codes as they came, and what came with those that turn away."""

    statuses: Counter[int] = field(default_factory=Counter)
    retry_after: list[int] = field(default_factory=list)
    without_retry_after: int = 0

    def note(self, status: int, retry_after: str | None) -> None:
        """Take in the head of an answer."""
        self.statuses[status] += 1
        if status in REASONS:
            if retry_after is not None and retry_after.isdigit() and int(retry_after) >= 1:
                self.retry_after.append(int(retry_after))
            else:
                self.without_retry_after += 1


def done_within(seen: Sequence[Seen], started: float, window: float) -> int:
    """Tokens of answers that came whole, as far as they arrived while the load was on: those of
    answers that broke off are nobody's good.
    """
    whole = (each for each in seen if each.error is None)
    return sum(time <= started + window for each in whole for time in each.token_times)


def by_label(text: str, name: str) -> dict[str, float]:
    """A counter's values in an exposition, by their labels as they are written."""
    found = {}
    for line in text.splitlines():
        if line.startswith((f"{name} ", f"{name}{{")):
            labels, _, value = line.removeprefix(name).rpartition(" ")
            found[labels] = float(value)
    return found


def increase(before: str, after: str, name: str) -> dict[str, int]:
    """By how much a counter grew between two expositions; what did not is left out."""
    old = by_label(before, name)
    grown = {
        labels: round(value - old.get(labels, 0)) for labels, value in by_label(after, name).items()
    }
    return {labels: count for labels, count in grown.items() if count}


def mismatches(seen: Sequence[Seen], replies: Replies, before: str, after: str) -> list[str]:
    """Where the edge's counters and its clients do not say the same."""
    failures = increase(before, after, FAILURES)
    whole = sum(each.error is None for each in seen)
    gone = sum(each.error == UNFINISHED for each in seen)
    counted = {
        "answers that came whole": (whole, sum(increase(before, after, SUCCESS).values())),
        "clients that left": (gone, failures.pop('{reason="cancelled"}', 0)),
    }
    for status, reasons in REASONS.items():
        told = sum(failures.pop(f'{{reason="{reason}"}}', 0) for reason in reasons)
        counted[f"answers with {status}"] = (replies.statuses[status], told)
    found = [
        f"{what}: clients saw {saw}, the edge counted {told}"
        for what, (saw, told) in counted.items()
        if saw != told
    ]
    return [*found, *(f"the edge counted {count} of {what}" for what, count in failures.items())]


def accepted(seen: Sequence[Seen]) -> dict[str, float | None]:
    """Seconds from when a request was due to its last token, of those that were answered."""
    times = spread(e.ended - e.due for e in seen if e.error is None and e.ended is not None)
    return {"p50_seconds": times.p50, "p95_seconds": times.p95}
