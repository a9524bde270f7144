"""Reliability, policies and targets as pictures. Colours are of Okabe and Ito's palette."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Found = Sequence[Mapping[str, Any]]

_LOOKS: Mapping[str, tuple[str, str]] = {
    "single": ("#000000", "-"),
    "per_exit": ("#0072B2", "-"),
    "chance": ("#D55E00", "-"),
    "entropy, single": ("#8C8C8C", "--"),
    "entropy, per exit": ("#56B4E9", "--"),
    "chance, single": ("#E69F00", "--"),
    "moving_average": ("#009E73", "-."),
}
_WIDEST = 0.15
_POINTS = 61


def reliability_figure(found: Found, title: str) -> Figure:
    """A panel for each exit: what agreed, by what was said; a thin line for every seed."""
    layers = list(found[0]["calibration"])
    figure = Figure(figsize=(5.2 * len(layers), 5.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(layers), sharey=True))
    for panel, layer in zip(panels, layers, strict=True):
        _reliability(panel, [seed["calibration"][layer] for seed in found])
        panel.set_title(f"exit in front of layer {layer}")
        panel.set_xlabel("what the exit says")
    panels[0].set_ylabel("share like the full model's choice")
    figure.suptitle(title, fontsize=12)
    return figure


def _reliability(panel: Axes, told: Sequence[Mapping[str, Any]]) -> None:
    panel.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=1, zorder=0)
    for kind, colour, name in (
        ("before", "#000000", "highest probability"),
        ("after", "#D55E00", "calibrated chance"),
    ):
        bins = np.array([each[f"bins_{kind}"] for each in told])  # [seeds, bins, 3]
        for seed in bins:
            panel.plot(seed[:, 0], seed[:, 1], color=colour, linewidth=0.5, alpha=0.25)
        error = np.mean([each[f"ece_{kind}"] for each in told])
        panel.plot(
            bins[..., 0].mean(axis=0),
            bins[..., 1].mean(axis=0),
            color=colour,
            marker="o",
            markersize=5,
            linewidth=1.8,
            label=f"{name}: error {error:.3f}",
        )
    panel.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    panel.grid(color="#EEEEEE")
    panel.legend(loc="lower right", fontsize=9, frameon=False)


def curves_figure(found: Found, title: str) -> Figure:
    """Share offloaded by disagreement: the mean over seeds of every policy; patience's points."""
    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    panel = figure.subplots()
    grid = np.linspace(0, _WIDEST, _POINTS)
    for name in found[0]["curves"]:
        lines = [np.interp(grid, *np.array(sorted(seed["curves"][name])).T) for seed in found]
        colour, style = _LOOKS.get(name, ("#CC79A7", ":"))
        mean = np.mean(lines, axis=0)
        panel.plot(100 * grid, 100 * mean, color=colour, linestyle=style, label=name, linewidth=1.8)
    for exits, marker in zip(found[0]["policies"]["patience"], "Ds^v", strict=False):
        each = [seed["policies"]["patience"][exits] for seed in found]
        wrong = 100 * float(np.mean([one["disagreement"] for one in each]))
        if wrong <= 100 * _WIDEST:
            offloaded = 100 * float(np.mean([one["offloaded"] for one in each]))
            panel.plot(
                wrong, offloaded, marker, color="#CC79A7", markersize=8, label=f"patience, {exits}"
            )
    panel.axvline(5, color="#BBBBBB", linewidth=1, zorder=0)
    panel.set(
        xlabel="tokens unlike the full model's, % of all",
        ylabel="tokens sent to the cloud, %",
        xlim=(0, 100 * _WIDEST),
        ylim=(0, 100),
        title=title,
    )
    panel.grid(color="#EEEEEE")
    panel.legend(frameon=False)
    return figure


def targets_figure(found: Found, title: str) -> Figure:
    """Realised disagreement of every seed by target: with the guarantee, and without one."""
    figure = Figure(figsize=(8.5, 5.6), layout="constrained")
    panel = figure.subplots()
    targets = list(found[0]["targets"])
    for shift, (bound, colour) in zip(
        (-0.12, 0.12), (("betting", "#0072B2"), ("no guarantee", "#D55E00")), strict=True
    ):
        for place, target in enumerate(targets):
            share = [s["targets"][target][bound]["disagreement"] / float(target) for s in found]
            spread = place + shift + np.linspace(-0.07, 0.07, len(share))
            label = bound if not place else None
            panel.plot(spread, share, "o", color=colour, alpha=0.7, markersize=5, label=label)
    panel.axhline(1, color="#444444", linewidth=1)
    panel.set(
        xticks=range(len(targets)),
        xticklabels=[f"at most {float(target):.0%}" for target in targets],
        ylabel="realised disagreement, as a share of the target",
        title=title,
    )
    panel.set_ylim(bottom=0)
    panel.grid(axis="y", color="#EEEEEE")
    panel.legend(frameon=False, loc="lower right")
    return figure
