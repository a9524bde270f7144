"""The lanes of a request as a picture, 1600 px wide or more. It knows no notes."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon, Rectangle

from benchmarks.timeline.lanes import Lanes, Message, Span

INCHES_A_SECOND, LEAST_INCHES, HEIGHT_INCHES = 12.0, 16.0, 6.8
_DRAFT, _CLOUD, _EDGE = "#44AA99", "#332288", "#009E73"
_UP, _DOWN, _ALONE, _WAIT = "#E69F00", "#56B4E9", "#CC79A7", "#D9D9D9"
# Middle and half height of each lane, top to bottom as things happen.
_TOKENS, _WAITS, _STEPS, _PASSES, _AHEAD = 7.6, 6.4, 5.5, 1.6, 0.6
_EDGE_SIDE, _CLOUD_SIDE = 5.0, 2.1
_HALF = 0.4
_TICK, _TICKS_APART = 0.17, 0.21
_LABELLED_BYTES = 4000
# Labels nearer than this, in parts of the whole time, would overlap.
_LABELS_APART = 0.016
_NAMES = (
    (_TOKENS, "tokens\nto the user"),
    (_WAITS, "waits: no step of\nthe edge under way"),
    (_STEPS, "edge's steps\n(rows in each)"),
    ((_EDGE_SIDE + _CLOUD_SIDE) / 2, "network:\nuploads go down,\nanswers come up"),
    (_PASSES, "cloud's passes\n(rows in each)"),
    (_AHEAD, "run-ahead: cloud\nfrom layer 0 on"),
)


def picture(lanes: Lanes, title: str, account: str) -> Figure:
    """Draw the lanes; `account` stands below the title."""
    width = max(LEAST_INCHES, 3 + INCHES_A_SECOND * lanes.total / 1e3)
    figure = Figure(figsize=(width, HEIGHT_INCHES), layout="constrained")
    panel = figure.subplots()
    _tokens(panel, lanes)
    for wait in lanes.waits:
        _box(panel, wait, _WAITS, _WAIT, f"{wait.ended - wait.began:.0f}")
    for place, colour, spans in (
        (_STEPS, _EDGE, lanes.steps),
        (_PASSES, _CLOUD, lanes.passes),
        (_AHEAD, _ALONE, lanes.alone),
    ):
        for span in spans:
            _box(panel, span, place, colour, f"{span.rows}")
    apart = _LABELS_APART * lanes.total
    _crossing(panel, lanes.up, _EDGE_SIDE, _CLOUD_SIDE, colour=_UP, apart=apart)
    _crossing(panel, lanes.down, _CLOUD_SIDE, _EDGE_SIDE, colour=_DOWN, apart=apart)
    _dress(panel, lanes)
    figure.suptitle(f"{title}\n{account}", fontsize=12, x=0.01, ha="left")
    figure.legend(handles=_key(), loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    return figure


def _tokens(panel: Axes, lanes: Lanes) -> None:
    """A tick for each, those of one burst on top of each other, with their number."""
    for burst in lanes.bursts:
        panel.axvline(burst.at, color="#E4E4E4", linewidth=0.8, zorder=0)
        foot = _TOKENS - _HALF
        for source in burst.sources:
            colour = _DRAFT if source == "draft" else _CLOUD if source == "cloud" else _UP
            panel.plot(
                [burst.at] * 2, [foot, foot + _TICK], color=colour, linewidth=5,
                solid_capstyle="butt",
            )  # fmt: skip
            foot += _TICKS_APART
        if len(burst.sources) > 1:
            number = f"{len(burst.sources)}"
            panel.annotate(number, (burst.at, foot), fontsize=8, ha="center", va="bottom")


def _box(panel: Axes, span: Span, place: float, colour: str, text: str) -> None:
    width = span.ended - span.began
    panel.add_patch(
        Rectangle(
            (span.began, place - _HALF), width, 2 * _HALF, facecolor=colour, edgecolor="white",
            linewidth=0.6,
        )
    )  # fmt: skip
    if width >= 7:
        dark = colour in (_CLOUD, _EDGE)
        panel.annotate(text, (span.began + width / 2, place), ha="center", va="center", fontsize=8,
                       color="white" if dark else "black")  # fmt: skip


def _crossing(
    panel: Axes,
    messages: Sequence[Message],
    there: float,
    here: float,
    *,
    colour: str,
    apart: float,
) -> None:
    """A message leaves one side and reaches the other later; its width is its time on the line."""
    labelled = -math.inf
    for message in sorted(messages, key=lambda each: each.sent):
        corners = [
            (message.sent, there),
            (message.left, there),
            (message.last, here),
            (message.first, here),
        ]
        panel.add_patch(Polygon(corners, facecolor=colour, edgecolor=colour, linewidth=1.4))
        if message.size >= _LABELLED_BYTES and message.sent - labelled > apart:
            labelled = message.sent
            panel.annotate(
                f"{message.size / 1e3:.0f} kB",
                (message.left, there),
                xytext=(3, -3),
                textcoords="offset points",
                fontsize=7.5,
                va="top",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.8},
            )


def _dress(panel: Axes, lanes: Lanes) -> None:
    panel.set_xlim(-0.005 * lanes.total, 1.01 * lanes.total)
    most = max(len(burst.sources) for burst in lanes.bursts)
    panel.set_ylim(0.1, max(_TOKENS + _HALF, _TOKENS - _HALF + _TICKS_APART * (most + 1.5)))
    for side in (_EDGE_SIDE, _CLOUD_SIDE):
        panel.axhline(side, color="#888888", linewidth=0.8)
    panel.set_yticks([place for place, _ in _NAMES], [name for _, name in _NAMES], fontsize=9)
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel("ms since the request")
    panel.spines[["top", "right", "left"]].set_visible(False)


def _key() -> list[Patch]:
    looks = (
        ("token the edge had drafted", _DRAFT),
        ("token the cloud chose", _CLOUD),
        ("edge computes", _EDGE),
        ("edge waits (ms)", _WAIT),
        ("upload", _UP),
        ("answer", _DOWN),
        ("cloud alone: run-ahead, or a prompt by its ids", _ALONE),
    )
    return [Patch(facecolor=colour, label=label) for label, colour in looks]
