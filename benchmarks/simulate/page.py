"""What the simulation found, as Markdown and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.simulate import fleet, shapes
from benchmarks.simulate.paper import Reproduced, Stage
from benchmarks.simulate.validate import Prediction, Validation
from benchmarks.tables import table

_COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#000000")


def validation(found: Validation) -> str:
    """Per deployment the errors over the cells, and the fitted software."""
    lines = [["", "cells", "median error", "worst error", "on loopback (fitted)"]]
    fitted = {each.row.deployment: each for each in found.fitted}
    for name in dict.fromkeys(each.row.deployment for each in found.predicted):
        own = [each for each in found.predicted if each.row.deployment == name]
        worst = max(own, key=lambda each: abs(each.error))
        middle = sorted(abs(each.error) for each in own)[len(own) // 2]
        lines.append([
            name, str(len(own)), f"{middle:.1%}", f"{worst.error:+.1%} ({_place(worst)})",
            f"{fitted[name].error:+.1%}",
        ])  # fmt: skip
    software = ", ".join(f"{k} {v:.2f} ms" for k, v in asdict(found.software).items())
    told = (
        f"Worst of {len(found.predicted)} predicted cells {found.worst:.1%}, median "
        f"{found.median:.1%}. Software fitted on loopback: {software}.\n"
    )
    return f"{told}\n{table(lines)}"


def _place(each: Prediction) -> str:
    return f"{each.row.rtt_ms:g} ms, {each.row.mbit:g} Mbit/s"


def paper(found: Sequence[Reproduced], way: Sequence[Stage]) -> str:
    """The paper's table by its unit costs, and the way from our row to its own."""
    lines = [["", "prices meet", "published s", "simulated s", "off by", "cloud s", "edge s"]]
    lines += [
        [
            each.name, f"{each.edge} edge", f"{each.published_s:.1f}",
            f"{each.result.total_s:.1f}", f"{each.error:+.1%}", f"{each.result.cloud_s:.1f}",
            f"{each.result.edge_s:.1f}",
        ]
        for each in found
    ]  # fmt: skip
    stages = [["over cloud-only under the same conditions", "total", "cloud seconds"]]
    stages += [[each.what, f"{each.total:.3f}", f"{each.cloud:.3f}"] for each in way]
    stages.append(["published", "0.862", "0.305"])
    return f"{table(lines)}\n{table(stages)}"


def sizes(
    points: Sequence[shapes.Point], even: Mapping[tuple[str, str, float], float | None]
) -> str:
    """Per shape and bandwidth: deployments by round trips, and where they break even."""
    parts = []
    for shape in dict.fromkeys(point.shape for point in points):
        for mbit in shapes.MEGABITS:
            lines = [[f"{shape}, {mbit:g} Mbit/s", *(f"{r:g} ms" for r in shapes.ROUND_TRIPS_MS)]]
            lines[0].append("breaks even at")
            for name in shapes.KINDS:
                own = [p for p in points if (p.shape, p.mbit, p.deployment) == (shape, mbit, name)]
                until = _until(even[shape, name, mbit])
                lines.append([name, *(f"{p.total:.2f}" for p in own), until])
            parts.append(table(lines))
    return "\n".join(parts)


def _until(rtt: float | None) -> str:
    if rtt is None:
        return "never"
    return "any" if rtt == float("inf") else f"{rtt:.0f} ms"


def fleets(points: Sequence[fleet.Point]) -> str:
    """Edges against what one cloud gives them, and where it saturates."""
    lines = [["", "edges", "tokens/s", "busy", "rows a step", "p95 of a pass", "token slower by"]]
    lines += [
        [
            p.service, f"{p.edges:,}", f"{p.tokens_per_second:,.0f}", f"{p.busy:.0%}",
            f"{p.rows_a_step:.0f}", f"{p.p95_ms:,.0f} ms", f"{p.slowdown:,.1f} x",
        ]
        for p in points
    ]  # fmt: skip
    ends = [["a token takes twice what it takes a fleet of one", "edges"]]
    for name in dict.fromkeys(p.service for p in points):
        edges = fleet.saturation(points, name)
        ends.append([name, f"{edges:.0f}" if edges else "not within these"])
    return f"{table(ends)}\n{table(lines)}"


def draw(
    points: Sequence[shapes.Point], fleets_found: Sequence[fleet.Point], folder: Path
) -> list[Path]:
    """Both pictures; returns the files."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    for panel, shape in zip(figure.subplots(1, 2), shapes.SHAPES, strict=True):
        for colour, name in zip(_COLOURS, shapes.KINDS, strict=False):
            own = [p for p in points if (p.shape, p.mbit, p.deployment) == (shape, 30.0, name)]
            panel.plot([p.rtt_ms for p in own], [p.total for p in own], "o-", color=colour,
                       label=name, markersize=4)  # fmt: skip
        panel.axhline(1, color="#000000", linewidth=1)
        panel.set_yscale("log")
        panel.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        panel.minorticks_off()
        panel.set_title(f"{shape}, 30 Mbit/s", loc="left", fontsize=10)
        panel.set_xlabel("round trip, ms")
        panel.set_ylabel("time a token, over cloud-only's")
    _legend(figure, "Simulated: larger models on slower networks")
    rtt = folder / "simulation_rtt.png"
    figure.savefig(rtt, dpi=100, metadata={"Software": None})
    return [rtt, _draw_fleet(fleets_found, folder / "simulation_fleet.png")]


def _draw_fleet(points: Sequence[fleet.Point], path: Path) -> Path:
    figure = Figure(figsize=(12, 5), layout="constrained")
    rate, wait = figure.subplots(1, 2)
    names = dict.fromkeys(p.service for p in points)
    for colour, name in zip(("#000000", "#0072B2", "#009E73"), names, strict=False):
        own = [p for p in points if p.service == name]
        edges = [p.edges for p in own]
        rate.loglog(edges, [p.tokens_per_second for p in own], "o-", color=colour, label=name)
        wait.loglog(edges, [p.slowdown for p in own], "o-", color=colour, label=name)
    rate.set_title("tokens a second, all edges together", loc="left", fontsize=10)
    wait.set_title("time a token, over a fleet of one's", loc="left", fontsize=10)
    wait.axhline(fleet.SATURATED, color="#999999", linestyle=":")
    for panel in (rate, wait):
        panel.set_xlabel("edges generating without a pause, on one cloud")
        panel.grid(color="#eeeeee")
    _legend(figure, "Simulated: one cloud of a 7B model, 20 ms, 30 Mbit/s")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def _legend(figure: Figure, title: str) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=12)
