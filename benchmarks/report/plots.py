"""The rows as pictures, 1200 px wide: time against the round trip, and what travels.

It decides what is drawn; how a deployment looks is `palette`'s, bars of cost are `cost`'s.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.report import grid
from benchmarks.report.cost import cost
from benchmarks.report.palette import Look, looks
from benchmarks.rows import CLOUD_ONLY, CellKey, Row

INCHES, DPI = 12.0, 100
TITLES = {"paced": "paced: 7B unit costs", "real": "real compute: the shipped model"}
# Least distance between two direct labels, and the highest place of one: above it stands what they
# are; in parts of the panel's height.
_LABEL_GAP, _LABEL_TOP = 0.05, 0.97
_TICKS_MS = tuple(lead * 10**power for power in range(5) for lead in (1, 2, 3, 5))
# Least distance between two ticks of the round trip, in parts of the axis.
_TICK_GAP = 0.07


def draw(rows: Sequence[Row], folder: Path) -> Mapping[str, Path]:
    """Draw every plot these rows allow into `folder`; files by name, without their suffix."""
    ours = [row for row in rows if not row.peer]
    figures: dict[str, Figure] = {}
    for setup in grid.setups(ours):
        chosen = [row for row in ours if row.setup == setup]
        if _panels(chosen):
            figures[f"total_by_rtt_{setup}"] = total_by_rtt(rows, setup)
        figures[f"cost_{setup}"] = cost(chosen, grid.telling(chosen, setup), title_of(chosen))
    if ours:
        figures["bytes"] = traffic(rows)
    return {name: _save(figure, folder / f"{name}.png") for name, figure in figures.items()}


def total_by_rtt(rows: Sequence[Row], setup: str) -> Figure:
    """Milliseconds a token against the round trip: a line per deployment, with the smallest and
    largest run, and a panel per bandwidth that has two round trips or more.
    """
    chosen = [row for row in rows if row.setup == setup and not row.peer]
    seen = _looks(rows)
    panels = _panels(chosen)
    wide = len(panels) == 1
    lines = 1 if wide else (len(panels) + 1) // 2
    figure = Figure(figsize=(INCHES, 6.2 if wide else 4.4 * lines), layout="constrained")
    axes = figure.subplots(lines, 1 if wide else 2, squeeze=False, sharey=True).flatten()
    for mbit, panel in zip(panels, axes, strict=False):
        here = [row for row in chosen if row.mbit == mbit]
        for name in grid.deployments(here):
            _line(panel, [row for row in here if row.deployment == name], seen[name])
        _dress(panel, here, "" if wide else _limit(mbit))
    title = f"Time a token against the round trip ({title_of(chosen)})"
    if wide:
        _label_lines(axes[0], chosen, seen, panels[0])
        title += f", {_limit(panels[0])}"
    else:
        _legend(figure, list(axes), len(panels))
    figure.suptitle(title, fontsize=13)
    return figure


def _looks(rows: Sequence[Row]) -> Mapping[str, Look]:
    """Of all rows, whatever a picture shows of them; peers have no line and take no colour."""
    return looks(grid.deployments(row for row in rows if not row.peer))


def title_of(rows: Sequence[Row]) -> str:
    """What rows of one set-up are of, as printed."""
    told = grid.sampling(rows[0].cell)
    return TITLES.get(rows[0].setup, rows[0].setup) + (f"; {told}" if told else "")


def _limit(mbit: float | None) -> str:
    return "no bandwidth limit" if mbit is None else grid.rate(mbit)


def _panels(rows: Sequence[Row]) -> list[float | None]:
    """Bandwidths with two round trips or more: fewer make no line."""
    return [
        mbit
        for mbit in grid.bandwidths(rows)
        if len({row.rtt_ms for row in rows if row.mbit == mbit}) > 1
    ]


def _ms(row: Row) -> float:
    return 1e3 * row.per_token("total_s")


def _line(panel: Axes, rows: Sequence[Row], look: Look) -> None:
    rows = sorted(rows, key=lambda row: row.rtt_ms)
    total = [_ms(row) for row in rows]
    low = [max(0.0, row.total_s - row.total_s_low) * 1e3 / row.tokens for row in rows]
    high = [max(0.0, row.total_s_high - row.total_s) * 1e3 / row.tokens for row in rows]
    panel.errorbar(
        [row.rtt_ms for row in rows],
        total,
        yerr=(low, high),
        color=look.colour,
        marker=look.marker,
        markersize=7,
        markeredgecolor="white",
        markeredgewidth=0.6,
        linewidth=look.width,
        linestyle="--" if look.dashed else "-",
        elinewidth=1.0,
        capsize=2,
        label=rows[0].deployment,
        zorder=4 if rows[0].deployment == CLOUD_ONLY else 3,
    )


def _dress(panel: Axes, rows: Sequence[Row], title: str) -> None:
    panel.set_yscale("log")
    totals = [_ms(row) for row in rows]
    low, high = panel.get_ylim()
    low, high = min(low, *totals), max(high, *totals)
    ticks = [tick for tick in _TICKS_MS if low <= tick <= high]
    panel.set_yticks(ticks, [f"{tick}" for tick in ticks])
    panel.tick_params(labelleft=True)
    panel.minorticks_off()
    trips = {row.rtt_ms: row.rtt_steps for row in rows}
    places = apart(list(trips))
    panel.set_xticks(places, [_tick(place, trips[place]) for place in places])
    in_steps = any(steps is not None for steps in trips.values())
    panel.set_xlabel("round trip, ms (×: full steps)" if in_steps else "round trip, ms")
    panel.set_ylabel("ms a token (log)")
    panel.grid(color="#E6E6E6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.set_title(title, loc="left", fontsize=11)
    panel.spines[["top", "right"]].set_visible(False)


def _tick(rtt_ms: float, steps: float | None) -> str:
    return f"{rtt_ms:.3g}" if steps is None else f"{rtt_ms:.3g}\n{steps:g}×"


def apart(places: Sequence[float]) -> list[float]:
    """Those of the places that can be labelled without overlap, the largest first of all."""
    kept: list[float] = []
    for place in sorted(places, reverse=True):
        if not kept or kept[-1] - place >= _TICK_GAP * (max(places) - min(places)):
            kept.append(place)
    return kept[::-1]


def _label_lines(
    panel: Axes, rows: Sequence[Row], seen: Mapping[str, Look], mbit: float | None
) -> None:
    """Names at the right ends of the lines, pushed apart where they would overlap."""
    ends: dict[str, Row] = {}
    for row in sorted((row for row in rows if row.mbit == mbit), key=lambda row: row.rtt_ms):
        ends[row.deployment] = row
    low, high = (math.log(limit) for limit in panel.get_ylim())
    heights = {name: (math.log(_ms(row)) - low) / (high - low) for name, row in ends.items()}
    gap = min(_LABEL_GAP, _LABEL_TOP / len(heights))
    for name, height in spread(heights, gap, _LABEL_TOP).items():
        end = (ends[name].rtt_ms, _ms(ends[name]))
        panel.annotate(
            f"{name}  {grid.milliseconds(end[1])}",
            end,
            xytext=(1.03, height),
            textcoords="axes fraction",
            color="#222222",
            fontsize=11,
            va="center",
            fontweight="bold" if seen[name].width > 2 else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": seen[name].colour,
                "linewidth": 1.4,
                "relpos": (0.0, 0.5),
                "shrinkA": 2,
            },
        )
    at = max(row.rtt_ms for row in ends.values())
    panel.annotate(
        f"ms a token at {at:g} ms", (1.03, 1.0), xycoords="axes fraction", fontsize=11,
        color="#666666",
    )  # fmt: skip


def spread(heights: Mapping[str, float], gap: float, top: float = 1.0) -> dict[str, float]:
    """The heights in the same order, at least `gap` apart and none above `top`, moved as little as
    keeps it simple.
    """
    names = sorted(heights, key=lambda name: heights[name])
    placed: dict[str, float] = {}
    floor = -math.inf
    for name in names:
        floor = max(heights[name], floor + gap)
        placed[name] = floor
    # Pushing upwards only would lift a cluster off its lines: half of it goes back down.
    lifted = [placed[name] - heights[name] for name in names]
    down = max(lifted, default=0.0) / 2
    ceiling = top + gap
    for name in reversed(names):
        ceiling = min(placed[name], max(heights[name], placed[name] - down), ceiling - gap)
        placed[name] = ceiling
    return placed


def _legend(figure: Figure, axes: Sequence[Axes], used: int) -> None:
    """In the place of a panel where one is left over, else at the right."""
    handles, labels = axes[0].get_legend_handles_labels()
    if used == len(axes):
        figure.legend(handles, labels, loc="outside right center", fontsize=10, frameon=False)
        return
    axes[used].set_axis_off()
    axes[used].legend(handles, labels, loc="center left", fontsize=12, frameon=False)


def traffic(rows: Sequence[Row]) -> Figure:
    """Bytes a token up and down (log): message bodies solid, all that crossed the wire outlined;
    one network of each set-up, as they hardly depend on it.
    """
    seen = _looks(rows)
    ours = [row for row in rows if not row.peer]
    cells = [grid.telling(ours, setup)[0] for setup in grid.setups(ours)]
    longest = max(len([row for row in ours if row.cell == cell]) for cell in cells)
    most = max(10.0, *(r.per_token(key) for r in ours for key in ("wire_up", "wire_down")))
    size = (INCHES, 1.4 + len(cells) * (0.9 + 0.3 * longest))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(cells), 2, squeeze=False, sharey="row", sharex=True)
    for cell, pair in zip(cells, axes, strict=True):
        here = [row for row in ours if row.cell == cell][::-1]
        for way, panel in zip(("up", "down"), pair, strict=True):
            _bars(panel, here, way, seen)
            # A log axis begins somewhere: at a byte a token.
            panel.set_xlim(1, most * 40)
            panel.tick_params(labelbottom=True)
            panel.set_title(f"{way}: {_where(cell)}", loc="left", fontsize=11)
    key = [
        Patch(facecolor="#555555", label="message bodies"),
        Patch(
            facecolor="none",
            edgecolor="#555555",
            label="all that crossed the wire: with HTTP and the edge's look at the cloud every 2 s",
        ),
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=2, fontsize=10, frameon=False)
    told = grid.sampling(cells[0])
    title = "Bytes between edge and cloud for each token of the answer"
    figure.suptitle(title + (f" ({told})" if told else ""), fontsize=13)
    return figure


def _where(cell: CellKey) -> str:
    return f"{TITLES.get(cell.setup, cell.setup)}, {grid.network(cell)}"


def _bars(panel: Axes, rows: Sequence[Row], way: str, seen: Mapping[str, Look]) -> None:
    bodies = [row.per_token(f"bytes_{way}") for row in rows]
    wire = [row.per_token(f"wire_{way}") for row in rows]
    colours = [seen[row.deployment].colour for row in rows]
    places = range(len(rows))
    panel.set_xscale("log")
    panel.barh(places, bodies, height=0.5, color=colours)
    panel.barh(places, wire, height=0.74, color="none", edgecolor=colours, linewidth=1.2)
    for height, body, all_of_it in zip(places, bodies, wire, strict=True):
        panel.annotate(
            f"{body:,.0f}  ({all_of_it:,.0f})",
            (max(body, all_of_it, 1.0), height),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    panel.set_yticks(places, [row.deployment for row in rows], fontsize=10)
    panel.set_ylim(-0.6, len(rows) - 0.4)
    panel.set_xlabel("bytes a token (log): bodies (wire)")
    panel.xaxis.set_major_formatter(lambda value, _: _short(value))
    panel.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _short(value: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value:g}"


def _save(figure: Figure, path: Path) -> Path:
    # The pictures are committed: no time stamp, so that the same rows give the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path
