"""The learning curve of exits: what `translators.json` says, as a picture.

Agreement with the end on held-out text, over steps, a line for each exit; where the checkpoint had
exits of its own, theirs as a dashed line of the same colour.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# As in the plots of the benchmark: legible for the colour-blind.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def draw_curve(content: Mapping[str, Any], file: Path) -> None:
    """Draw the curve of the content of `translators.json` into a PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # a second, that no other use of training should cost

    figure = Figure(figsize=(9.6, 5.4), dpi=125, layout="constrained")
    agreement, divergence = figure.subplots(1, 2)
    curve = content["curve"]
    steps = [point["step"] for point in curve]
    for colour, layer in zip(_cycle(len(content["exits"])), content["exits"], strict=True):
        found = [point["exits"][str(layer)] for point in curve]
        shares = [100 * each["agreement"] for each in found]
        label = f"exit {layer}: {shares[0]:.1f} to {shares[-1]:.1f} %"
        agreement.plot(steps, shares, marker="o", markersize=3, color=colour, label=label)
        nats = [each["divergence"] for each in found]
        label = f"exit {layer}: {nats[0]:.3f} to {nats[-1]:.3f}"
        divergence.plot(steps, nats, marker="o", markersize=3, color=colour, label=label)
        beside = content["own_exits"].get(str(layer))
        if beside is not None:
            look = {"color": colour, "linestyle": "--", "linewidth": 1.2}
            share, nat = 100 * beside["agreement"], beside["divergence"]
            agreement.axhline(share, **look, label=f"its trained exit: {share:.1f} %")
            divergence.axhline(nat, **look, label=f"its trained exit: {nat:.3f}")
    agreement.set(xlabel="steps", ylabel="tokens chosen as the end chooses them, %")
    divergence.set(xlabel="steps", ylabel="KL(end || exit), nats", ylim=(0, None))
    for axes in (agreement, divergence):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(
        f"{content['model']}: exits learned from {content['text']} text, translator "
        f"{content['translator']}; {content['held_out_tokens']:,} held-out tokens"
    )
    figure.savefig(file)


def _cycle(count: int) -> list[str]:
    return [_COLOURS[n % len(_COLOURS)] for n in range(count)]
