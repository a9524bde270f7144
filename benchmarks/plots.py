"""The rows as pictures: total against round trip, what a token is made of, bytes.

One deployment has one colour everywhere; the colour-blind can tell them apart (Okabe and Ito's
palette), and lines have markers too.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.rows import CLOUD_ONLY, Row, baselines, ratio

_COLOURS = (
    "#000000", "#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#56B4E9", "#56B4E9", "#56B4E9",
    "#009E73", "#F0E442", "#CC79A7", "#8B5A2B", "#7F3FBF", "#5F9EA0", "#B22222",
)  # fmt: skip
_MARKERS = "os^Dv<>Xp*hPd8H"
_SUBTITLE = {
    "paced": "paced: engine steps held to CE-CoLLM's 7B unit costs",
    "real": "real compute: the shipped 9.8-million-parameter model, one core a side",
}


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw every plot these rows allow into `folder`; returns the files."""
    order = list(dict.fromkeys(row.deployment for row in rows))
    found = []
    for setup in dict.fromkeys(row.setup for row in rows):
        chosen = [row for row in rows if row.setup == setup]
        if len({row.rtt_ms for row in chosen if row.mbit}) > 1:
            found.append(_save(by_round_trip(chosen, order), folder / f"total_{setup}.png"))
        found.append(_save(made_of(chosen), folder / f"cost_{setup}.png"))
    found.append(_save(traffic(rows), folder / "bytes.png"))
    return found


def by_round_trip(rows: Sequence[Row], order: Sequence[str]) -> Figure:
    """Total over cloud-only's against the round trip, one panel per bandwidth."""
    bandwidths = sorted({row.mbit for row in rows if row.mbit})
    figure = Figure(figsize=(12, 5.5 if len(bandwidths) == 1 else 9), layout="constrained")
    axes = figure.subplots(
        1 if len(bandwidths) == 1 else 2, (len(bandwidths) + 1) // 2 or 1, squeeze=False
    ).flat
    base = baselines(rows)
    for mbit, panel in zip(bandwidths, axes, strict=False):
        for name in order:
            own = [r for r in rows if r.mbit == mbit and r.deployment == name]
            own.sort(key=lambda r: r.rtt_ms)
            points = [(r.rtt_ms, ratio(r, base[r.cell])) for r in own]
            if points:
                _line(panel, points, name, order)
        panel.set_yscale("log")
        panel.set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"])
        panel.minorticks_off()
        panel.axhline(1, color="#999999", linewidth=1, zorder=0)
        panel.set_title(f"{mbit:g} Mbit/s", loc="left", fontsize=10)
        panel.set_xlabel("round trip, ms")
        panel.set_ylabel("time a token, over cloud-only's")
        panel.grid(axis="y", color="#eeeeee")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9, frameon=False)
    figure.suptitle(f"Time against the network ({_SUBTITLE[rows[0].setup]})", fontsize=12)
    return figure


def _line(
    panel: Axes, points: Sequence[tuple[float, float]], name: str, order: Sequence[str]
) -> None:
    place = order.index(name)
    panel.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=_COLOURS[place % len(_COLOURS)],
        marker=_MARKERS[place % len(_MARKERS)],
        markersize=5,
        linewidth=2.5 if name == CLOUD_ONLY else 1.5,
        label=name,
    )


# (label, colour, seconds a token)
_PARTS: Sequence[tuple[str, str, Callable[[Row], float]]] = (
    ("edge compute", "#0072B2", lambda r: r.per_token("edge_s")),
    ("cloud compute", "#D55E00", lambda r: r.per_token("cloud_s")),
    ("network and waiting", "#F0E442", lambda r: r.per_token("network_s")),
    ("software and overlap", "#BBBBBB", lambda r: max(0.0, _rest(r))),
)


def _rest(row: Row) -> float:
    return row.per_token("total_s") - sum(
        row.per_token(part) for part in ("edge_s", "cloud_s", "network_s")
    )


def made_of(rows: Sequence[Row]) -> Figure:
    """Stacked cost of a token on up to four networks."""
    cells = _telling(rows)
    figure = Figure(figsize=(12, 1.2 + 4.2 * ((len(cells) + 1) // 2)), layout="constrained")
    axes = figure.subplots((len(cells) + 1) // 2, 2 if len(cells) > 1 else 1, squeeze=False).flat
    for cell, panel in zip(cells, axes, strict=False):
        own = [row for row in rows if row.cell == cell][::-1]
        left = [0.0] * len(own)
        for label, colour, seconds in _PARTS:
            widths = [1e3 * seconds(row) for row in own]
            names = [row.deployment for row in own]
            panel.barh(names, widths, left=left, color=colour, label=label, height=0.7)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        base = next(1e3 * r.per_token("total_s") for r in own if r.deployment == CLOUD_ONLY)
        longest = max(base * 4.5, min(left))
        panel.set_xlim(0, longest)
        for place, value in enumerate(left):
            over = value > longest
            panel.text(
                longest * 0.985 if over else value + longest * 0.01,
                place,
                f"{value:.0f}" + (" →" if over else ""),
                va="center",
                ha="right" if over else "left",
                fontsize=8,
            )
        panel.axvline(base, color="#000000", linewidth=1, linestyle=":")
        panel.set_xlabel("ms a token (dotted: cloud-only)")
        panel.set_title(_place(cell), loc="left", fontsize=10)
        panel.tick_params(axis="y", labelsize=8)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(f"What a token is made of ({_SUBTITLE[rows[0].setup]})", fontsize=12)
    return figure


def _telling(rows: Sequence[Row]) -> list[tuple[str, float, float | None, float | None]]:
    """Up to four networks: those at 30 Mbit/s where there are some, else what there is."""
    cells = sorted({r.cell for r in rows if r.rtt_steps is None}, key=lambda c: (c[1], c[2] or 0))
    usual = [cell for cell in cells if cell[2] == 30.0 and cell[1] in (3.0, 20.0, 50.0, 100.0)]
    return (usual or cells)[:4]


def _place(cell: tuple[str, float, float | None, float | None]) -> str:
    return f"{cell[1]:g} ms, {cell[2]:g} Mbit/s" if cell[2] else "loopback"


def traffic(rows: Sequence[Row]) -> Figure:
    """Bytes a token up and down, message bodies and what HTTP adds, at loopback."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    setups = list(dict.fromkeys(row.setup for row in rows))
    axes = figure.subplots(1, len(setups), squeeze=False).flat
    for setup, panel in zip(setups, axes, strict=False):
        own = [r for r in rows if r.cell == (setup, 0.0, None, None) and r.wire_up][::-1]
        for shift, way, colour in ((0.2, "up", "#0072B2"), (-0.2, "down", "#D55E00")):
            places = [place + shift for place in range(len(own))]
            bodies = [r.per_token(f"bytes_{way}") for r in own]
            wire = [r.per_token(f"wire_{way}") for r in own]
            panel.barh(places, wire, height=0.38, color="white", edgecolor=colour)
            panel.barh(places, bodies, height=0.38, color=colour, label=f"{way}: message bodies")
        panel.set_yticks(range(len(own)), [r.deployment for r in own], fontsize=8)
        panel.set_xscale("log")
        panel.set_xlabel("bytes a token (outline: with HTTP)")
        width = "states of 4096 values" if setup == "paced" else "states of 256 values"
        panel.set_title(f"{setup}: {width}", loc="left", fontsize=10)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    figure.suptitle("Bytes between edge and cloud", fontsize=12)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    # The pictures are committed: no time stamp, so that the same rows give the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path
