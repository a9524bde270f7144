"""What a token's time is made of, as stacked bars; it knows the parts and no deployment by name
but the baseline.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmarks.report import grid
from benchmarks.rows import CellKey, Row, baselines, ratio

INCHES = 12.0
# (figure of a row, label, colour, hatch); other colours than those of deployments.
_PARTS: Sequence[tuple[str, str, str, str]] = (
    ("edge_s", "edge compute", "#44AA99", ""),
    ("cloud_s", "cloud compute", "#332288", ""),
    ("network_s", "waiting for the network", "#DDCC77", "///"),
    ("rest_s", "rest: HTTP, software, waiting not told apart", "#CCCCCC", ""),
)
# Bars longer than this many times cloud-only's total are cut: one deployment must not flatten all.
_LONGEST = 4.5
# Room for the number behind the longest bar.
_MARGIN = 1.16


def cost(rows: Sequence[Row], cells: Sequence[CellKey], title: str) -> Figure:
    """Milliseconds a token by part, per deployment, a panel for each of `cells`."""
    columns = 2 if len(cells) > 1 else 1
    lines = -(-len(cells) // columns)
    most = max(len([row for row in rows if row.cell == cell]) for cell in cells)
    size = (INCHES, 1.3 + lines * (1.0 + 0.31 * most))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True).flatten()
    edge = _longest(rows, cells)
    for panel in axes[len(cells) :]:
        panel.remove()
    for place, (cell, panel) in enumerate(zip(cells, axes, strict=False)):
        here = [row for row in rows if row.cell == cell]
        _bars(panel, here[::-1], edge)
        panel.set_title(grid.network(cell), loc="left", fontsize=11)
        panel.tick_params(labelbottom=True)
        if place % columns and _names(here) == _names(rows, cells[place - 1]):
            panel.set_yticklabels([])
    figure.legend(handles=_key(), loc="outside lower center", ncols=3, fontsize=10, frameon=False)
    figure.suptitle(f"What a token's time is made of ({title})", fontsize=13)
    return figure


def _names(rows: Sequence[Row], cell: CellKey | None = None) -> list[str]:
    return [row.deployment for row in rows if cell is None or row.cell == cell]


def part(row: Row, figure: str) -> float:
    """Milliseconds a token of one part; `rest_s` is what the others leave of the total, and nothing
    where they overlap so far that they exceed it.
    """
    if figure != "rest_s":
        return 1e3 * row.per_token(figure)
    parts = sum(row.per_token(name) for name, *_ in _PARTS if name != "rest_s")
    return 1e3 * max(0.0, row.per_token("total_s") - parts)


def _longest(rows: Sequence[Row], cells: Sequence[CellKey]) -> float:
    """The longest bar drawn whole, in milliseconds a token."""
    base = baselines(rows)
    fitting = [
        row
        for row in rows
        if row.cell in cells and (row.cell not in base or ratio(row, base[row.cell]) <= _LONGEST)
    ]
    return 1e3 * max(row.per_token("total_s") for row in fitting)


def _bars(panel: Axes, rows: Sequence[Row], longest: float) -> None:
    totals = [1e3 * row.per_token("total_s") for row in rows]
    base = next((1e3 * row.per_token("total_s") for row in rows if grid.is_baseline(row)), None)
    left = [0.0] * len(rows)
    for figure, _, colour, hatch in _PARTS:
        widths = [part(row, figure) for row in rows]
        panel.barh(
            range(len(rows)), widths, left=left, height=0.72, color=colour, hatch=hatch,
            edgecolor="white", linewidth=0.4,
        )  # fmt: skip
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    for height, (end, total) in enumerate(zip(left, totals, strict=True)):
        _end(panel, height, end, total, longest)
    if base is not None:
        panel.axvline(base, color="black", linewidth=1.2, linestyle=":")
    panel.set_xlim(0, longest * _MARGIN)
    panel.set_yticks(range(len(rows)), _names(rows), fontsize=10)
    panel.set_ylim(-0.6, len(rows) - 0.4)
    panel.set_xlabel("ms a token")
    panel.spines[["top", "right"]].set_visible(False)


def _end(panel: Axes, height: int, end: float, total: float, longest: float) -> None:
    """The total as a tick and a number; an arrow where the bar leaves the panel."""
    leaves = total > longest * _MARGIN
    shown = grid.milliseconds(total) + (" →" if leaves else "")
    if not leaves:
        panel.plot([total, total], [height - 0.42, height + 0.42], color="black", linewidth=2)
    inside = max(end, total) > longest
    panel.annotate(
        shown,
        (min(max(end, total), longest * _MARGIN), height),
        xytext=(-6, 0) if inside else (5, 0),
        textcoords="offset points",
        va="center",
        ha="right" if inside else "left",
        fontsize=10,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )


def _key() -> list[Patch | Line2D]:
    parts: list[Patch | Line2D] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=label)
        for _, label, colour, hatch in _PARTS
    ]
    total = Line2D([], [], color="black", linewidth=2, label="total (parts beyond it overlap)")
    base = Line2D([], [], color="black", linestyle=":", label="cloud-only's total")
    return [*parts, total, base]
