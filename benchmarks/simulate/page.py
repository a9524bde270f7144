"""What the simulation found, as Markdown and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.report.tables import table
from benchmarks.simulate import shapes
from benchmarks.simulate.paper import Reproduced, Stage
from benchmarks.simulate.queueing import Load
from benchmarks.simulate.validate import Prediction, Validation

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


def predicted(found: Sequence[Prediction]) -> str:
    """Every row of another run with its error."""
    lines = [["", "network", "measured s", "simulated s", "off by"]]
    lines += [
        [
            each.row.deployment, _place(each), f"{each.row.total_s:.3f}", f"{each.total_s:.3f}",
            f"{each.error:+.1%}",
        ]
        for each in found
    ]  # fmt: skip
    return table(lines)


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


@dataclass(frozen=True, slots=True)
class FleetPoint:
    """A service at a number of edges; `think_s` is its users' pause between answers."""

    service: str
    think_s: float
    load: Load


def fleets(points: Sequence[FleetPoint], noticed: Mapping[tuple[str, float], int]) -> str:
    """Edges against what one cloud gives them, and from where on they notice each other."""
    ends = [["a token takes twice what it takes a fleet of one", "pause", "edges"]]
    ends += [[name, f"{think:g} s", f"{edges:,}"] for (name, think), edges in noticed.items()]
    lines = [["", "pause", "edges", "tokens/s", "busy", "of a step's rows", "p50 between", "p95"]]
    lines += [
        [
            p.service, f"{p.think_s:g} s", f"{p.load.edges:,}", f"{p.load.tokens_per_s:,.0f}",
            f"{p.load.utilisation:.0%}", f"{p.load.fill:.1%}", f"{1e3 * p.load.gap_p50_s:,.0f} ms",
            f"{1e3 * p.load.gap_p95_s:,.0f} ms",
        ]
        for p in points
    ]  # fmt: skip
    return f"{table(ends)}\n{table(lines)}"


def draw(
    points: Sequence[shapes.Point], fleets_found: Sequence[FleetPoint], folder: Path
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


def _draw_fleet(points: Sequence[FleetPoint], path: Path) -> Path:
    figure = Figure(figsize=(12, 5), layout="constrained")
    rate, wait = figure.subplots(1, 2)
    names, pauses = ({getattr(p, key): None for p in points} for key in ("service", "think_s"))
    for colour, name in zip(("#000000", "#0072B2", "#009E73"), names, strict=False):
        for think, style in zip(pauses, ("o-", "s:"), strict=False):
            own = [p.load for p in points if (p.service, p.think_s) == (name, think)]
            edges = [each.edges for each in own]
            label = f"{name}, pause {think:g} s"
            rate.loglog(edges, [e.tokens_per_s for e in own], style, color=colour, label=label)
            wait.loglog(edges, [1e3 * e.gap_p95_s for e in own], style, color=colour, label=label)
    rate.set_title("tokens a second, all edges together", loc="left", fontsize=10)
    wait.set_title("95th percentile between tokens, ms", loc="left", fontsize=10)
    for panel in (rate, wait):
        panel.set_xlabel("edges on one cloud")
        panel.grid(color="#eeeeee")
    _legend(figure, "Simulated: one cloud of a 7B model, 20 ms, 30 Mbit/s")
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def _legend(figure: Figure, title: str) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=12)
