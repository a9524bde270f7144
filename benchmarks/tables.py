"""The rows as Markdown tables for a person to read."""

from collections.abc import Callable, Mapping, Sequence

from benchmarks.paper_table import PUBLISHED, TOKENS, Published
from benchmarks.rows import Row, baselines, ratio

NONE = "–"


def ratios(rows: Sequence[Row], setup: str, mbit: float | None) -> str:
    """Deployments by round trips: total over cloud-only's in the same cell; cloud-only's own in
    milliseconds a token.
    """
    chosen = [r for r in rows if r.setup == setup and r.mbit == mbit and not r.peer]
    cells = sorted({r.cell for r in chosen}, key=lambda cell: cell[1])
    base = baselines(rows)
    by_place = {(r.deployment, r.cell): r for r in chosen}
    lines = [["total / cloud-only", *(_named(cell[1], cell[3]) for cell in cells)]]
    for name in dict.fromkeys(r.deployment for r in chosen):
        found = [by_place.get((name, cell)) for cell in cells]
        shown = [_ratio(r, base[r.cell]) if r else NONE for r in found]
        lines.append([name, *shown])
    own = [f"{1e3 * base[cell].per_token('total_s'):.1f} ms" for cell in cells]
    return table([*lines, ["(cloud-only, a token)", *own]])


def _named(rtt_ms: float, steps: float | None) -> str:
    if steps is not None:
        return f"{steps:g} steps ({rtt_ms:.1f} ms)"
    return f"{rtt_ms:g} ms" if rtt_ms else "loopback"


def _ratio(row: Row, base: Row) -> str:
    text = f"{ratio(row, base):.2f}"
    if row.repeats > 1:
        tokens = base.per_token("total_s") * row.tokens
        text += f" ({row.total_s_low / tokens:.2f} to {row.total_s_high / tokens:.2f})"
    return text


_COLUMNS: Sequence[tuple[str, Callable[[Row], str]]] = (
    ("total ms/token", lambda r: f"{1e3 * r.per_token('total_s'):.1f}"),
    ("edge", lambda r: f"{1e3 * r.per_token('edge_s'):.1f}"),
    ("cloud", lambda r: f"{1e3 * r.per_token('cloud_s'):.1f}"),
    ("network", lambda r: f"{1e3 * r.per_token('network_s'):.1f}"),
    ("first token ms", lambda r: f"{1e3 * r.ttft_s:.0f}"),
    ("p50 between", lambda r: f"{1e3 * r.itl_p50_s:.1f}"),
    ("p95", lambda r: f"{1e3 * r.itl_p95_s:.1f}"),
    ("requests/token", lambda r: f"{r.per_token('cloud_requests'):.3f}"),
    ("offloaded", lambda r: f"{r.offloaded:.1%}"),
    ("bytes up/token (wire)", lambda r: _bytes(r, "bytes_up", "wire_up")),
    ("bytes down/token (wire)", lambda r: _bytes(r, "bytes_down", "wire_down")),
    ("agreement", lambda r: f"{r.agreement:.1%}"),
    ("identical", lambda r: f"{r.identical * r.prompts:.0f} of {r.prompts}"),
    ("ROUGE-L", lambda r: f"{r.rouge_l:.3f}"),
)


def _bytes(row: Row, body: str, wire: str) -> str:
    if row.peer:
        return NONE
    return f"{row.per_token(body):,.0f} ({row.per_token(wire):,.0f})"


def cell(rows: Sequence[Row], setup: str, rtt_ms: float, mbit: float | None) -> str:
    """One network with every figure."""
    chosen = [r for r in rows if r.cell == (setup, rtt_ms, mbit, None)]
    lines = [["", *(head for head, _ in _COLUMNS)]]
    lines += [[r.deployment, *(show(r) for _, show in _COLUMNS)] for r in chosen]
    return table(lines)


def beside_the_paper(rows: Sequence[Row]) -> str:
    """The paper's table with ours at 3 ms and 30 Mbit/s, paced: ratios to cloud-only's total."""
    by_name = {r.deployment: r for r in rows if r.cell == ("paced", 3.0, 30.0, None)}
    if "cloud-only" not in by_name:
        return ""
    base, published_base = by_name["cloud-only"], PUBLISHED["cloud-only"]
    heads = ["total", "cloud", "edge", "network", "requests/token", "bytes up/token"]
    lines = [["each over cloud-only's total", *(f"{head}: paper / ours" for head in heads)]]
    for name, paper in PUBLISHED.items():
        if name in by_name:
            lines.append([name, *_pairs(paper, published_base, by_name[name], base)])
    return table(lines)


def _pairs(paper: Published, paper_base: Published, row: Row, base: Row) -> list[str]:
    total = base.per_token("total_s")
    parts = ("total_s", "cloud_s", "edge_s", "network_s")
    shown = [
        f"{getattr(paper, part) / paper_base.total_s:.3f} / {row.per_token(part) / total:.3f}"
        for part in parts
    ]
    # A streamed answer is one request; the paper counts tokens.
    asked = row.offloaded if row.deployment == "cloud-only" else row.per_token("cloud_requests")
    shown.append(f"{paper.requests_per_token:.3f} / {asked:.3f}")
    return [*shown, _traffic(paper, row)]


def _traffic(paper: Published, row: Row) -> str:
    """Bytes for each token of the answer: answers and prompts of the two differ in length."""
    ours = f"{row.per_token('bytes_up'):,.0f}"
    if paper.bytes_per_response is None:
        return f"{NONE} / {ours}"
    return f"{paper.bytes_per_response * 100 / TOKENS:,.0f} / {ours}"


def calibration(rows: Sequence[Row]) -> str:
    """Asked against measured networks."""
    lines = [["asked", "round trip", "up", "down"]]
    for row in baselines(rows).values():
        rtt, up, down = row.rtt_measured_ms, row.mbit_up_measured, row.mbit_down_measured
        if rtt is None or up is None or down is None:
            continue
        asked = f"{row.setup}, {row.rtt_ms:.4g} ms, " + (
            f"{row.mbit:g} Mbit/s" if row.mbit else "no limit"
        )
        lines.append([asked, f"{rtt:.2f} ms", f"{up:.1f} Mbit/s", f"{down:.1f} Mbit/s"])
    return table(lines)


def unit_costs(deviations: Mapping[str, Sequence[float]]) -> str:
    """The price list against the paper's times."""
    lines = [["milliseconds", "by the list", "published", "off by"]]
    for name, (ours, published) in deviations.items():
        lines.append([name, f"{ours:.2f}", f"{published:.2f}", f"{ours / published - 1:+.1%}"])
    return table(lines)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first of them the head, as Markdown."""
    head, *rest = lines
    ruled = [head, ["---", *("---:" for _ in head[1:])], *rest]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in ruled)
