"""What an engine step costs at the scale of CE-CoLLM's 7B model, fitted to the paper's own times.

Three of its unit costs are taken (arXiv 2411.02829, Alpaca, seconds over 10,000 tokens):
cloud-only, standalone, and one cloud pass in collaborative mode. A step is priced as

    step + layer x (layers run) + head x (heads asked) + row x (further rows) x (layers run / depth)

and the three unknowns `step`, `layer`, `head` are solved for. The paper leaves open whether its
cloud takes over after layer 8 or 16 of 32: no price list without negative entries fits a cloud that
starts at 8 (its pass would have to cost 75 % of a full step, less a head; it costs 61 %), while one
that starts at 16 is fitted exactly. The list is checked against the two unit costs not used
(naive edge, naive cloud) by `deviations`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy

# Milliseconds a token or pass, derived from the paper's totals.
PAPER_MS: Mapping[str, float] = {
    "cloud-only": 36.98,
    "standalone": 20.16,
    "cloud pass": 22.73,
    "collaborative edge": 19.22,
    "naive edge": 24.14,
    "naive cloud": 25.34,
}
FITTED = ("cloud-only", "standalone", "cloud pass")
PAPER_DEPTH = 32
PAPER_FIRST_EXIT, PAPER_LAST_EXIT = 8, 16
PAPER_HIDDEN = 4096
# Share of tokens the paper finds sure at its first exit (Alpaca), and of those it offloads.
FIRST_EXIT_SHARE = 0.4789
OFFLOADED_SHARE = 0.4958
# Given, not fitted: a further row of a step through all layers.
ROW_MS = 0.6


@dataclass(frozen=True, slots=True)
class Prices:
    """Milliseconds on a model of `depth` layers: per step, layer, head asked, and further row
    through all layers.
    """

    step: float
    layer: float
    head: float
    row: float
    depth: int

    def forward(self, layers: int, rows: int, *, begins: bool = True) -> float:
        """Milliseconds of `rows` rows through `layers` layers; a step pays its fixed part where it
        `begins`.
        """
        fixed = self.step if begins else 0.0
        return fixed + layers * (self.layer + self.row * (rows - 1) / self.depth)

    def scaled_to(self, depth: int) -> "Prices":
        """The same prices for a model of `depth` layers that stands for this one's."""
        return Prices(self.step, self.layer * self.depth / depth, self.head, self.row, depth)


def paper_prices(fitted: Sequence[str] = FITTED) -> Prices:
    """Solve the price list of the paper's model, 32 layers deep.

    Args:
        fitted: the three unit costs it meets.
    """
    kinds = [_kind(name) for name in fitted]
    unknown = numpy.array([kind[:3] for kind in kinds])
    known = numpy.array([PAPER_MS[name] for name in fitted])
    rows = numpy.array([kind[3] for kind in kinds])
    step, layer, head = numpy.linalg.solve(unknown, known - ROW_MS * rows)
    return Prices(float(step), float(layer), float(head), ROW_MS, PAPER_DEPTH)


def deviations(prices: Prices) -> dict[str, tuple[float, float]]:
    """Per unit cost of the paper: (milliseconds by the list, milliseconds published)."""
    return {name: (_priced(prices, _kind(name)), published) for name, published in PAPER_MS.items()}


def _priced(prices: Prices, kind: tuple[float, float, float, float]) -> float:
    steps, layers, heads, rows = kind
    return steps * prices.step + layers * prices.layer + heads * prices.head + rows * prices.row


def _kind(name: str) -> tuple[float, float, float, float]:
    """(steps, layers, heads, further rows in full depths) of what the paper timed."""
    upper = Fraction(PAPER_DEPTH - PAPER_LAST_EXIT, PAPER_DEPTH)
    if name == "cloud-only":
        return (1, PAPER_DEPTH, 1, 0)
    if name == "cloud pass":
        # Every position crosses the cloud once: those kept since the last pass ride along.
        return (1, PAPER_DEPTH - PAPER_LAST_EXIT, 1, (1 / OFFLOADED_SHARE - 1) * float(upper))
    if name in ("standalone", "collaborative edge"):
        on = 1 - FIRST_EXIT_SHARE  # goes on to the last exit, with what was left behind
        between = PAPER_LAST_EXIT - PAPER_FIRST_EXIT
        behind = FIRST_EXIT_SHARE * between / PAPER_DEPTH
        return (1, PAPER_FIRST_EXIT + on * between, 1 + on, behind)
    if name == "naive edge":
        return (1, PAPER_LAST_EXIT, 2, 0)
    if name == "naive cloud":
        return (1, PAPER_DEPTH - PAPER_LAST_EXIT, 1, 0)
    raise ValueError(f"the paper has no unit cost called {name}")
