"""A load's outcome for people (a table) and for programs (JSON). It knows nothing of edges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from cli.load.requests import STOPPED, Seen
from cli.load.summary import Spread, Summary, summarize

FORMAT = 1
# From here on the generator's own lateness is part of what it measures.
LATE_SECONDS = 0.01
HOW_COUNTED = (
    "tokens/s: tokens that came while the load was on, over those seconds",
    "first token, request: from when a request was due; between tokens: as events came, "
    "those that came at once with no time between them",
)


@dataclass(frozen=True, slots=True)
class Report:
    """The summaries of a load: by edge, by mode, in total."""

    started: str
    seconds: float
    load: Mapping[str, object]
    edges: dict[str, Summary]
    modes: dict[str, Summary]
    total: Summary
    # The first failure of each reason in the edge's own words.
    said: dict[str, str]

    @property
    def error_share(self) -> float:
        """Requests that failed over all that were left to end; 0 where there is none."""
        ended = self.total.requests - self.total.stopped
        return self.total.failed / ended if ended else 0.0

    def json(self) -> dict[str, Any]:
        """The report as its file holds it."""
        return {"format": FORMAT, **asdict(self)}


def report(
    seen: Sequence[Seen],
    edges: Sequence[str],
    *,
    began: float,
    window: float,
    started: str,
    load: Mapping[str, object],
) -> Report:
    """Sum up a load on `edges`: from monotonic second `began` for `window` seconds."""

    def of(chosen: Callable[[Seen], bool]) -> Summary:
        return summarize([each for each in seen if chosen(each)], started=began, window=window)

    modes = sorted({each.mode for each in seen})
    return Report(
        started=started,
        seconds=window,
        load=load,
        edges={name: of(lambda each, name=name: each.edge == name) for name in edges},  # type: ignore[misc]
        modes={mode: of(lambda each, mode=mode: each.mode == mode) for mode in modes},  # type: ignore[misc]
        total=of(lambda each: True),
        said={each.error: each.said for each in reversed(seen) if each.error and each.said},
    )


def table(told: Report, own_names: Mapping[str, str]) -> Table:
    """One line for each edge, each mode where there are several, and the total.

    `own_names` has what edges call themselves, where it is known.
    """
    shown = Table(title=f"{told.seconds:.1f} s of load", title_justify="left")
    shown.add_column("", no_wrap=True)
    for column in (
        "requests", "failed", "tokens/s", "offloaded", "first token p50 / p95",
        "between tokens p50 / p95", "request p95", "cloud ms/token", "up/token",
    ):  # fmt: skip
        shown.add_column(column, justify="right")
    for name, summary in told.edges.items():
        own = own_names.get(name)
        shown.add_row(escape(f"{own}\n{name}" if own else name), *_cells(summary))
    shown.add_section()
    if len(told.modes) > 1:
        for name, summary in told.modes.items():
            shown.add_row(f"mode {name}", *_cells(summary))
        shown.add_section()
    shown.add_row("total", *_cells(told.total), style="bold")
    return shown


def remarks(told: Report) -> list[str]:
    """What a reader of the table should know besides."""
    total = told.total
    reasons = sorted(item for item in total.errors.items() if item[0] != STOPPED)
    said = [
        f"failed: {count} × {reason}" + (f" ({told.said[reason]})" if reason in told.said else "")
        for reason, count in reasons
    ]
    if total.stopped:
        said.append(f"ended early: {total.stopped} requests were cut off, and did not fail")
    if total.degraded:
        said.append(f"{total.degraded} answers were degraded: the cloud was lost meanwhile")
    if total.failed:
        said.append("waits are those of answers that came: failed requests are not in them")
    unasked = [name for name, summary in told.edges.items() if not summary.requests]
    if unasked:
        said.append(f"nothing was asked of {', '.join(unasked)}: more edges than users or sessions")
    if total.requests:
        said += [*([_lateness(total)] if told.load.get("rate") else []), *HOW_COUNTED]
    return said


def _lateness(total: Summary) -> str:
    lag = total.sending_lag_seconds.p99
    if lag is not None and lag > LATE_SECONDS:
        return (
            f"the generator itself was late: 1 % of requests left over {1000 * lag:.0f} ms after "
            "they were due (it needs more of a core, or less load)"
        )
    return f"99 % of requests left within {_milliseconds(lag)} of when they were due"


def _cells(summary: Summary) -> tuple[str, ...]:
    return (
        f"{summary.requests}",
        f"{summary.failed}",
        f"{summary.tokens_per_second:.1f}",
        _shown(summary.offload_ratio, lambda ratio: f"{ratio:.1%}"),
        _pair(summary.time_to_first_token_seconds),
        _pair(summary.inter_token_seconds),
        _milliseconds(summary.request_seconds.p95),
        _shown(summary.cloud_seconds_per_token, lambda seconds: f"{1000 * seconds:.2f}"),
        _shown(summary.bytes_up_per_token, lambda count: f"{count:,.0f} B"),
    )


def _pair(times: Spread) -> str:
    return f"{_milliseconds(times.p50)} / {_milliseconds(times.p95)}"


def _milliseconds(seconds: float | None) -> str:
    return _shown(
        seconds,
        lambda known: f"{1000 * known:.0f} ms" if known >= 0.01 else f"{1000 * known:.1f} ms",
    )


def _shown(value: float | None, form: Callable[[float], str]) -> str:
    return "–" if value is None else form(value)
