"""The rows as Markdown tables. It knows what to show beside what, and draws and judges nothing."""

from collections.abc import Callable, Mapping, Sequence

from benchmarks.report import grid
from benchmarks.report.paper_table import CLOUD, KB, PROMPTS, PUBLISHED, TOKENS, Published
from benchmarks.rows import CLOUD_ONLY, CellKey, Row, baselines, ratio

NONE = "–"
Column = tuple[str, Callable[[Row], str]]


def ratios(rows: Sequence[Row], setup: str, mbit: float | None) -> str:
    """Deployments by round trips at one bandwidth (Mbit/s): total over cloud-only's on the same
    network, with the smallest and largest ratio of one prompt's (of a run, in older rows);
    cloud-only's own in seconds. Less than 1 is bold.
    """
    base = baselines(rows)
    return _by_round_trip(rows, setup, mbit, "total over cloud-only's", lambda r: _held(r, base))


def between_tokens(rows: Sequence[Row], setup: str, mbit: float | None) -> str:
    """Deployments by round trips at one bandwidth: p50 / p95 of all gaps between tokens, and of the
    pauses among them; empty where no row tells pauses apart.
    """
    own = [row for row in rows if row.setup == setup and row.mbit == mbit]
    if not _pauses(own):
        return ""

    def shown(row: Row) -> str:
        gaps = f"{_ms(row.itl_p50_s)} / {_ms(row.itl_p95_s)}"
        return f"{gaps} ({_ms(row.pause_p50_s)} / {_ms(row.pause_p95_s)})"

    head = "p50 / p95 between tokens (pauses), ms"
    return _by_round_trip(rows, setup, mbit, head, shown)


def _by_round_trip(
    rows: Sequence[Row], setup: str, mbit: float | None, head: str, show: Callable[[Row], str]
) -> str:
    chosen = [row for row in rows if row.setup == setup and row.mbit == mbit and not row.peer]
    cells, found = grid.networks(chosen), grid.by_place(chosen)
    lines = [[head, *(grid.round_trip(cell) for cell in cells)]]
    for name in grid.deployments(chosen):
        own = (found.get((cell, name)) for cell in cells)
        lines.append([name, *(show(row) if row else NONE for row in own)])
    return table(lines)


def _ms(seconds: float | None) -> str:
    return NONE if seconds is None else f"{1e3 * seconds:.1f}"


def _held(row: Row, base: dict[CellKey, Row]) -> str:
    """Seconds for cloud-only and where there is none, else the ratio to it."""
    against = base.get(row.cell)
    if against is None or grid.is_baseline(row):
        return _spread(row, f"{row.total_s:.2f} s", 1.0)
    share = ratio(row, against)
    shown = f"**{share:.2f}**" if share < 1 else f"{share:.2f}"
    if row.ratio_low is not None and row.ratio_high is not None:
        return f"{shown} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
    return _spread(row, shown, share / row.total_s)


def _spread(row: Row, shown: str, scale: float) -> str:
    if row.repeats == 1:
        return shown
    return f"{shown} ({row.total_s_low * scale:.2f} to {row.total_s_high * scale:.2f})"


def times(rows: Sequence[Row], cell: CellKey) -> str:
    """Where the time goes on one network: seconds of a run, milliseconds to and between tokens."""
    return _columns(_of(rows, cell), _time_columns(rows))


def _pauses(rows: Sequence[Row]) -> Sequence[Column]:
    """Of runs that told pauses apart."""
    if all(row.pause_p95_s is None for row in rows):
        return ()
    return (
        ("pauses, p50 ms", lambda r: _ms(r.pause_p50_s)),
        ("pauses, p95 ms", lambda r: _ms(r.pause_p95_s)),
    )


def _paired(rows: Sequence[Row]) -> Sequence[Column]:
    """Of runs that held a prompt's time against cloud-only's for the same prompt."""
    if all(row.ratio_paired is None for row in rows):
        return ()

    def shown(row: Row) -> str:
        told = (row.ratio_paired, row.ratio_low, row.ratio_high)
        paired, low, high = (NONE if each is None else f"{each:.2f}" for each in told)
        return NONE if row.ratio_paired is None else f"{paired} ({low} to {high})"

    return (("paired", shown),)


def drafts(rows: Sequence[Row], cell: CellKey) -> str:
    """What became of drafts on one network, a run in all but for passes; empty where nobody
    drafted.
    """
    columns: Sequence[Column] = (
        ("drafted", lambda r: f"{r.drafted_tokens:,}"),
        ("of them in the text", lambda r: f"{r.accepted_tokens / r.drafted_tokens:.1%}"),
        ("of the text", lambda r: f"{r.per_token('accepted_tokens'):.1%}"),
        ("cloud passes/token", lambda r: f"{r.per_token('cloud_passes'):.3f}"),
        ("waits for the cloud/token", lambda r: f"{r.per_token('round_trips'):.3f}"),
        ("waiting s", lambda r: f"{r.waiting_s:.2f}"),
        ("near ties", lambda r: f"{r.near_ties}"),
    )
    found = [row for row in _of(rows, cell) if row.drafted_tokens]
    return _columns(found, columns) if found else ""


def _time_columns(rows: Sequence[Row]) -> Sequence[Column]:
    base = baselines(rows)

    def held(row: Row) -> str:
        against = base.get(row.cell)
        return f"{ratio(row, against):.2f}" if against else NONE

    return (
        ("total s", lambda r: _spread(r, f"{r.total_s:.2f}", 1.0)),
        ("over cloud-only", held),
        *_paired(rows),
        ("edge s", lambda r: f"{r.edge_s:.2f}"),
        ("cloud s", lambda r: f"{r.cloud_s:.2f}"),
        ("network s", lambda r: NONE if r.peer else f"{r.network_s:.2f}"),
        ("first token ms", lambda r: f"{1e3 * r.ttft_s:.0f}"),
        ("between tokens, p50 ms", lambda r: _ms(r.itl_p50_s)),
        ("p95 ms", lambda r: _ms(r.itl_p95_s)),
        *_pauses(rows),
    )


def traffic(rows: Sequence[Row], cell: CellKey) -> str:
    """What travels on one network, and what comes of it: per token, shares of tokens and texts."""
    columns: Sequence[Column] = (
        ("requests/token", lambda r: f"{r.per_token('cloud_requests'):.3f}"),
        ("offloaded", lambda r: f"{r.offloaded:.1%}"),
        *((f"bytes {way}/token", _bytes(f"bytes_{way}")) for way in ("up", "down")),
        *((f"wire {way}/token", _bytes(f"wire_{way}")) for way in ("up", "down")),
        *_QUALITY,
    )
    return _columns([row for row in _of(rows, cell) if not row.peer], columns)


def _bytes(figure: str) -> Callable[[Row], str]:
    return lambda row: f"{row.per_token(figure):,.0f}"


_QUALITY: Sequence[Column] = (
    ("agreement", lambda r: f"{r.agreement:.1%}"),
    ("identical", lambda r: f"{r.identical * r.prompts:.3g} of {r.prompts}"),
    ("ROUGE-L", lambda r: f"{r.rouge_l:.3f}"),
)


def peers(rows: Sequence[Row]) -> str:
    """Other people's software beside ours without a network, real set-up; empty without peers."""
    found = [row for row in rows if row.peer and row.setup == "real"]
    if not found:
        return ""
    cells = {row.cell for row in found}
    ours = [row for row in rows if row.cell in cells and not row.peer]
    beside = [row for row in ours if row.deployment in (CLOUD_ONLY, "standalone")]
    columns = [column for column in _time_columns(rows) if column[0] not in _NOT_OF_PEERS]
    return _columns([*beside, *found], [*columns, *_QUALITY])


_NOT_OF_PEERS = ("paired", "edge s", "cloud s", "network s")


def beside_the_paper(rows: Sequence[Row]) -> str:
    """The paper's table, each line with ours at 3 ms and 30 Mbit/s, paced, below it; ours is scaled
    to its 10,000 tokens. Empty where that network was not measured, or not greedily.
    """
    cell = CellKey("paced", grid.PAPER_RTT_MS, grid.PAPER_MBIT, None)
    ours = {row.deployment: row for row in _of(rows, cell)}
    if not ours:
        return ""
    heads = ("total s", "over cloud-only", "cloud s", "edge s", "network s")
    lines = [["", "whose", *heads, "KB up a response", "requests/token"]]
    for published in PUBLISHED:
        lines.append([published.name, "paper", *_published(published)])
        lines += [[name, "ours", *_ours(ours, name)] for name in published.ours]
    return table(lines)


def _published(line: Published) -> list[str]:
    seconds = (line.cloud_s, line.edge_s, line.network_s)
    return [
        f"{line.total_s:.2f}",
        f"{line.total_s / CLOUD.total_s:.3f}",
        *(f"{each:.2f}" for each in seconds),
        NONE if line.kb_per_response is None else f"{line.kb_per_response:,.2f}",
        f"{line.request_rate:.3f}",
    ]


def _ours(rows: dict[str, Row], name: str) -> list[str]:
    row, base = rows.get(name), rows.get(CLOUD_ONLY)
    if row is None:
        return [NONE] * 7
    seconds = [f"{row.per_token(part) * TOKENS:.2f}" for part in ("cloud_s", "edge_s", "network_s")]
    # The paper counts tokens; a streamed answer is one request.
    asked = row.offloaded if grid.is_baseline(row) else row.per_token("cloud_requests")
    return [
        f"{row.per_token('total_s') * TOKENS:.2f}",
        f"{ratio(row, base):.3f}" if base else NONE,
        *seconds,
        f"{row.per_token('bytes_up') * TOKENS / PROMPTS / KB:,.2f}",
        f"{asked:.3f}",
    ]


def calibration(rows: Sequence[Row]) -> str:
    """Asked against measured networks: round trip in ms, rates in Mbit/s; empty without any."""
    lines = [["set-up", "asked", "round trip ms", "off by", "up Mbit/s", "down Mbit/s"]]
    seen = {row.cell: row for row in reversed(rows) if row.rtt_measured_ms is not None}
    for cell in grid.networks(seen.values()):
        row = seen[cell]
        measured = row.rtt_measured_ms or 0.0
        off = NONE if grid.is_loopback(cell) else f"{measured - row.rtt_ms:+.2f} ms"
        rates = [_rate(each, row.mbit) for each in (row.mbit_up_measured, row.mbit_down_measured)]
        lines.append([row.setup, grid.network(cell), f"{measured:.2f}", off, *rates])
    return table(lines) if len(lines) > 1 else ""


def _rate(measured: float | None, asked: float | None) -> str:
    if measured is None:
        return NONE
    return f"{measured:,.1f} ({measured / asked - 1:+.1%})" if asked else f"{measured:,.0f}"


def unit_costs(found: Mapping[str, Sequence[float]]) -> str:
    """Per unit cost of the paper what the price list says and what was published, milliseconds;
    empty where there is none.
    """
    if not found:
        return ""
    lines = [["milliseconds", "by the list", "published", "off by"]]
    for name, (ours, published) in found.items():
        lines.append([name, f"{ours:.2f}", f"{published:.2f}", f"{ours / published - 1:+.1%}"])
    return table(lines)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first of them the head, as Markdown."""
    head, *rest = lines
    ruled = [head, ["---", *("---:" for _ in head[1:])], *rest]
    return "".join(f"| {' | '.join(_cell(each) for each in cells)} |\n" for cells in ruled)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _columns(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    lines = [["", *(head for head, _ in columns)]]
    return table([*lines, *([row.deployment, *(show(row) for _, show in columns)] for row in rows)])


def _of(rows: Sequence[Row], cell: CellKey) -> list[Row]:
    return [row for row in rows if row.cell == cell]
