"""Findings as Markdown that is also readable unrendered, no line wider than a terminal of 80.

It decides what is shown and in which words.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.evaluate.findings import Findings
from cli.evaluate.modes import Row

if TYPE_CHECKING:
    from training.evaluation.assessment import Swept
    from training.evaluation.curves import Curve, Point

NOTHING = "–"
# Those of a curve's thresholds that are printed.
_SHOWN = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.96)


def report(findings: Findings) -> str:
    """Every section the file has documents for, as Markdown without a last line end."""
    parts = [
        _head(findings),
        *_held_out(findings),
        *_thresholds(findings),
        *_calibration(findings),
        *(_modes(findings) if findings.rows else ()),
    ]
    return "\n\n".join(parts)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns: the first to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        " | ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in (heads, rule, *rows)
    ]
    return "\n".join(f"| {line} |" for line in lines)


def percent(share: float | None) -> str:
    """A share of 0 to 1 with one digit, and two where it is below one per cent."""
    if share is None:
        return NOTHING
    return f"{share:.2%}" if 0 < share < 0.01 else f"{share:.1%}"


def _head(findings: Findings) -> str:
    found = findings.assessment
    told = f"# {findings.file} on {findings.model}\n\n{found.documents:,} documents"
    if found.prompts:
        told += f", {len(found.prompts):,} prompts asked"
    if found.passed_over:
        told += f", {found.passed_over:,} passed over (empty or too long)"
    return f"{told}."


def _held_out(findings: Findings) -> list[str]:
    score = findings.assessment.held_out
    if score is None:
        return []
    rows = []
    for layer, perplexity in score.perplexity.items():
        error = score.perplexity_error[layer]
        rows.append(
            (
                "end" if layer == findings.depth else f"exit {layer}",
                _figure(perplexity),
                NOTHING if error is None else _figure(error),
                percent(score.agreement.get(layer)),
            )
        )
    return [
        "## Held-out tokens",
        f"{score.tokens:,} tokens of references or texts; the end needs "
        f"{score.bits_per_byte:.2f} bits per byte.",
        markdown(("layer", "perplexity", "± (one s.e.)", "same choice as the end"), rows),
    ]


def _thresholds(findings: Findings) -> list[str]:
    found = findings.assessment
    swept, on = found.on_answers, f"the full model's own answers to {len(found.answers):,} prompts"
    if swept is None:
        swept, on = found.on_held_out, "the file's own text"
    if swept is None:
        return []
    own = ", ".join(f"{value:g} at exit {n}" for n, value in findings.thresholds.items())
    point = swept.own_thresholds
    return [
        "## Thresholds",
        f"On {swept.tokens:,} tokens of {on}: the share\nkept above a threshold, and the share of "
        "all tokens that were kept and are not\nwhat the end chooses (wrong). "
        f"{_which_exits(findings)}",
        _sweep(swept),
        f"The exits' own thresholds ({own}):\n{percent(point.kept)} kept, "
        f"{percent(point.disagreement)} wrong; {percent(point.agreement)} of the kept ones agree.",
    ]


def _sweep(swept: "Swept") -> str:
    heads = ["threshold"]
    for curve in swept.curves:
        name = curve_name(curve)
        heads += [f"{name}: kept", "wrong"]
    rows = []
    for points in zip(*(curve.points for curve in swept.curves), strict=True):
        if points[0].thresholds[0] in _SHOWN:
            rows.append([f"{points[0].thresholds[0]:g}", *_cells(points)])
    return markdown(heads, rows)


def _cells(points: "Sequence[Point]") -> list[str]:
    return [cell for p in points for cell in (percent(p.kept), percent(p.disagreement))]


def curve_name(curve: "Curve") -> str:
    """`exit 3`, or what to call several at one threshold."""
    if len(curve.exits) == 1:
        return f"exit {curve.exits[0]}"
    return "both" if len(curve.exits) == 2 else "all"


def _which_exits(findings: Findings) -> str:
    if findings.drafter:
        return "The exits are those of an edge with its drafter."
    return "The exits are plain ones, without a drafter."


def _calibration(findings: Findings) -> list[str]:
    found = findings.assessment.trust
    if found is None:
        return []
    errors = markdown(
        ("exit", "error of the top probability", "of the calibrated chance"),
        [
            (f"exit {each.layer}", f"{each.error_before:.3f}", f"{each.error_after:.3f}")
            for each in found.exits
        ],
    )
    parts = ["## Calibration", "Expected calibration error on the same tokens:", errors]
    if found.targets:
        kept = [
            (
                percent(each.max_disagreement),
                f"{percent(each.by_text)} / {percent(each.here.disagreement)}",
                percent(1 - each.here.kept),
                percent(each.offloaded),
            )
            for each in found.targets
        ]
        heads = ("at most", "wrong: mean of texts / of all", "offloaded", "when calibrated")
        told = "Targets, each a bound of the mean over texts, and what their thresholds do here:"
        parts += [told, markdown(heads, kept)]
    return parts


def _modes(findings: Findings) -> list[str]:
    sources = _sources(findings)
    cost = markdown(
        ("setting", *sources, "asked", "bytes"),
        [
            (
                row.name,
                *(percent(row.sources[source] / row.tokens) for source in sources),
                f"{row.requests / row.tokens:.3f}",
                f"{row.bytes_up / row.tokens:,.0f}",
            )
            for row in findings.rows
        ],
    )
    near = markdown(
        ("setting", "agreement", "identical", "ROUGE-L full", "reference"),
        [_nearness(row) for row in findings.rows],
    )
    return [
        "## Settings",
        "Where tokens came from; requests to the cloud and bytes sent to it, per token:",
        cost,
        "Tokens that the full model chooses after the same text, texts that are exactly\nits own, "
        "and ROUGE-L (F) against its text and against the reference:",
        near,
    ]


def _sources(findings: Findings) -> list[str]:
    """Columns: the exits and the cloud always, anything else where it was seen."""
    exits = [f"exit:{layer}" for layer in findings.exits]
    seen = {source for row in findings.rows for source, count in row.sources.items() if count}
    return [*exits, *sorted(seen - {*exits, "cloud"}), "cloud"]


def _nearness(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        percent(row.agreeing / row.tokens),
        f"{row.identical} of {row.prompts}",
        *(NOTHING if mean is None else f"{mean:.3f}" for mean in (row.to_full, row.to_reference)),
    )


def _figure(value: float) -> str:
    """Four digits or so: 9.874, 23.41, 181.3, 5,210."""
    for least, digits in ((1000, 0), (100, 1), (10, 2)):
        if value >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"
