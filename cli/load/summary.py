"""What a load came to, as numbers: for one edge, one mode, or all of it.

Percentiles are by nearest rank. Throughput counts the tokens that arrived while the load was on,
not those of requests that were let finish after it. It does not know how numbers are shown.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cli.load.requests import STOPPED, Seen

USAGE = (
    "edge_compute_seconds",
    "cloud_compute_seconds",
    "cloud_requests",
    "bytes_up",
    "bytes_down",
)


@dataclass(frozen=True, slots=True)
class Spread:
    """A set of times in seconds by its percentiles and mean; None where there is none."""

    p50: float | None
    p95: float | None
    p99: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and times of some requests; seconds, bytes and tokens as users saw them."""

    requests: int
    errors: dict[str, int]
    degraded: int
    tokens: int
    tokens_by_source: dict[str, int]
    tokens_per_second: float
    offload_ratio: float | None
    time_to_first_token_seconds: Spread
    inter_token_seconds: Spread
    request_seconds: Spread
    sending_lag_seconds: Spread
    edge_compute_seconds: float
    cloud_compute_seconds: float
    cloud_seconds_per_token: float | None
    bytes_up_per_token: float | None
    cloud_requests: int
    bytes_up: int
    bytes_down: int

    @property
    def stopped(self) -> int:
        """Requests cut off because the load was ended early."""
        return self.errors.get(STOPPED, 0)

    @property
    def failed(self) -> int:
        """Requests that failed; those cut off because the load was ended early did not."""
        return sum(self.errors.values()) - self.stopped


def summarize(seen: Sequence[Seen], *, started: float, window: float) -> Summary:
    """The summary of requests under a load that was on from `started` for `window` seconds."""
    sources = sum((each.sources for each in seen), Counter[str]())
    tokens = sources.total()
    spent = {name: sum(each.usage.get(name, 0) for each in seen) for name in USAGE}
    within = sum(time <= started + window for each in seen for time in each.token_times)
    done = [each for each in seen if each.error is None]
    # What a request cost is told at its end: the tokens of those that broke off are not divided by.
    told = sum(each.sources.total() for each in seen if each.usage)
    return Summary(
        requests=len(seen),
        errors=dict(Counter(each.error for each in seen if each.error is not None)),
        degraded=sum(each.degraded for each in seen),
        tokens=tokens,
        tokens_by_source=dict(sorted(sources.items())),
        tokens_per_second=within / window if window > 0 else 0.0,
        offload_ratio=sources["cloud"] / tokens if tokens else None,
        time_to_first_token_seconds=spread(e.token_times[0] - e.due for e in seen if e.token_times),
        inter_token_seconds=spread(
            later - earlier
            for each in seen
            for earlier, later in zip(each.token_times, each.token_times[1:], strict=False)
        ),
        request_seconds=spread(e.ended - e.due for e in done if e.ended is not None),
        sending_lag_seconds=spread(each.sent - each.due for each in seen if each.sent),
        edge_compute_seconds=spent["edge_compute_seconds"],
        cloud_compute_seconds=spent["cloud_compute_seconds"],
        cloud_seconds_per_token=spent["cloud_compute_seconds"] / told if told else None,
        bytes_up_per_token=spent["bytes_up"] / told if told else None,
        cloud_requests=spent["cloud_requests"],
        bytes_up=spent["bytes_up"],
        bytes_down=spent["bytes_down"],
    )


def spread(values: Iterable[float]) -> Spread:
    """Percentiles and mean of some seconds."""
    known = sorted(values)
    if not known:
        return Spread(None, None, None, None)
    p50, p95, p99 = (known[math.ceil(share * len(known)) - 1] for share in (0.5, 0.95, 0.99))
    return Spread(p50, p95, p99, sum(known) / len(known))
