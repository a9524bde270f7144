"""Findings as pictures: what thresholds keep and get wrong, and ROUGE-L of each setting.

It decides what is drawn. Colours are Okabe and Ito's; every line has a dash pattern of its own.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import CommandError
from cli.evaluate.findings import Findings
from cli.evaluate.tables import curve_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from training.evaluation.assessment import Swept
    from training.evaluation.trust import Trust

_DPI = 120
_LOOKS = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))
_ALL = ("#000000", "-")


def draw(findings: Findings, folder: Path) -> list[Path]:
    """Draw what the findings allow into `folder`, which is made; returns the files.

    Raises:
        CommandError: a file cannot be written.
    """
    figures: dict[str, Figure] = {}
    swept = findings.assessment.on_answers or findings.assessment.on_held_out
    if swept is not None:
        figures["thresholds"] = _thresholds(findings, swept)
    if findings.assessment.trust is not None:
        figures["reliability"] = _reliability(findings, findings.assessment.trust)
    if findings.rows:
        figures["rouge"] = _rouge(findings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=_DPI)
    except OSError as error:
        raise CommandError(f"the plots cannot be written: {error}") from error
    return [folder / f"{name}.png" for name in figures]


def _thresholds(findings: Findings, swept: "Swept") -> "Figure":
    """Kept share and disagreement over the threshold, and one over the other."""
    from matplotlib.figure import Figure  # a second that no other use should cost

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    kept, wrong, against = figure.subplots(1, 3)
    for place, curve in enumerate(swept.curves):
        several = len(curve.exits) > 1
        colour, dashes = _ALL if several else _LOOKS[place % len(_LOOKS)]
        look = {"color": colour, "linestyle": dashes, "linewidth": 2.2 if several else 1.6}
        at = [point.thresholds[0] for point in curve.points]
        shares = [100 * point.kept for point in curve.points]
        mistakes = [100 * point.disagreement for point in curve.points]
        kept.plot(at, shares, label=curve_name(curve) + " at one threshold" * several, **look)
        wrong.plot(at, mistakes, **look)
        against.plot(shares, mistakes, **look)
    own = swept.own_thresholds
    against.plot(
        [100 * own.kept], [100 * own.disagreement], "o", color="#E69F00", markersize=9,
        markeredgecolor="black", label="the exits' own thresholds",
    )  # fmt: skip
    trust = findings.assessment.trust
    if trust is not None and trust.targets:
        against.plot(
            [100 * target.here.kept for target in trust.targets],
            [100 * target.here.disagreement for target in trust.targets],
            "D", color="#CC79A7", markersize=7, markeredgecolor="black",
            label="the calibration's targets",
        )  # fmt: skip
    _axes(kept, "Kept", "threshold on the top probability", "tokens kept, %")
    _axes(wrong, "Kept and not the full model's choice", "threshold on the top probability",
          "of all tokens, %")  # fmt: skip
    _axes(against, "What keeping costs", "tokens kept, %", "kept and wrong, % of all tokens")
    for panel, right in ((kept, 1.0), (wrong, 1.0), (against, 101.0)):
        panel.set_xlim(0, right)
        panel.set_ylim(bottom=0)
    kept.set_ylim(0, 100)
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    own_text = findings.assessment.on_answers is not None
    on = "the full model's own answers" if own_text else "the file's text"
    figure.suptitle(f"{findings.file} on {findings.model}: {swept.tokens:,} tokens of {on}")
    return figure


def _reliability(findings: Findings, trust: "Trust") -> "Figure":
    """A panel an exit: the share that agrees over the chance that was stated, before and after."""
    from matplotlib.figure import Figure  # a second that no other use should cost

    count = len(trust.exits)
    figure = Figure(figsize=(1 + 4.6 * count, 5.2), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    for panel, found in zip(panels, trust.exits, strict=True):
        panel.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        for bins, error, label, colour, marker in (
            (found.before, found.error_before, "top probability", "#D55E00", "s"),
            (found.after, found.error_after, "calibrated chance", "#0072B2", "o"),
        ):
            panel.plot(
                [each.chance for each in bins], [each.agreed for each in bins],
                color=colour, marker=marker, label=f"{label} (error {error:.3f})",
            )  # fmt: skip
        _axes(panel, f"exit {found.layer}", "chance stated", "share that is the end's choice")
        # Most of a model's chances lie near 1: markers there are not cut in half.
        panel.set_xlim(0, 1.02)
        panel.set_ylim(0, 1.02)
        panel.set_aspect("equal")
        panel.legend(loc="lower right", fontsize=9)
    figure.suptitle(f"{findings.file} on {findings.model}: reliability, bins of equal mass")
    return figure


def _rouge(findings: Findings) -> "Figure":
    """Two bars a setting: against the full model's text, and against the reference."""
    from matplotlib.figure import Figure  # a second that no other use should cost

    rows = findings.rows[::-1]
    figure = Figure(figsize=(9, 1.6 + 0.55 * len(rows)), layout="constrained")
    panel = figure.subplots()
    bars = [("the full model's text", [row.to_full for row in rows], "#0072B2", 0.2)]
    if any(row.to_reference is not None for row in rows):
        bars.append(("the reference", [row.to_reference for row in rows], "#E69F00", -0.2))
    for label, means, colour, shift in bars:
        places = [place + (shift if len(bars) > 1 else 0) for place in range(len(rows))]
        widths = [0.0 if mean is None else mean for mean in means]
        drawn = panel.barh(places, widths, height=0.38, color=colour, label=f"against {label}")
        panel.bar_label(drawn, fmt="%.3f", padding=3, fontsize=9)
    panel.set_yticks(range(len(rows)), [row.name for row in rows])
    _axes(panel, "", f"ROUGE-L (F), mean of {rows[0].prompts} answers", "")
    panel.set_xlim(0, 1.1)
    panel.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    panel.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(f"{findings.file} on {findings.model}: nearness of answers")
    return figure


def _axes(panel: "Axes", title: str, across: str, up: str) -> None:
    panel.set_title(title, loc="left", fontsize=11)
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    panel.grid(color="#E6E6E6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
