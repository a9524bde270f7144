"""Which networks a run goes through: the grids of the quick and the full benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.network.path import Shape

Setup = Literal["real", "paced"]

ROUND_TRIPS_MS = (3.0, 10.0, 20.0, 50.0, 100.0)
MEGABITS = (5.0, 30.0, 100.0, 1000.0)
QUICK_ROUND_TRIPS_MS = (3.0, 20.0, 50.0, 100.0)
QUICK_MEGABIT = 30.0
# What 3, 20, 50 and 100 ms are to a full step of 37 ms, for a machine with another step.
RELATIVE_STEPS = (0.08, 0.5, 1.35, 2.7)


@dataclass(frozen=True, slots=True)
class Cell:
    """A network to measure on: asked round trip, bandwidth each way (None: no limit), and the round
    trip in steps of the full model where it was chosen so.
    """

    setup: Setup
    rtt_ms: float
    mbit: float | None
    rtt_steps: float | None = None

    @property
    def shape(self) -> Shape:
        """The network to emulate."""
        return Shape(rtt_ms=self.rtt_ms, mbit_up=self.mbit, mbit_down=self.mbit)

    def __str__(self) -> str:
        network = f"{self.rtt_ms:g} ms, {self.mbit:g} Mbit/s" if self.mbit else "loopback"
        if self.rtt_steps is not None:
            network = f"{self.rtt_ms:.2f} ms ({self.rtt_steps:g} steps)"
        return f"{self.setup}, {network}"


def loopback(setup: Setup) -> Cell:
    """No network but the proxy itself: where the software's own time shows."""
    return Cell(setup, 0.0, None)


def quick(setup: Setup) -> Sequence[Cell]:
    """Cells of a run of minutes, loopback apart."""
    if setup == "real":
        return ()
    return [Cell(setup, rtt, QUICK_MEGABIT) for rtt in QUICK_ROUND_TRIPS_MS]


def full(setup: Setup) -> Sequence[Cell]:
    """Every round trip by every bandwidth."""
    return [Cell(setup, rtt, mbit) for mbit in MEGABITS for rtt in ROUND_TRIPS_MS]


def parse(text: str) -> Cell:
    """A cell as a command line names it: `paced:3:30` is 3 ms and 30 Mbit/s.

    Raises:
        ValueError: it is not set-up, milliseconds and Mbit/s.
    """
    setup, rtt, mbit = text.split(":")
    if setup not in ("real", "paced"):
        raise ValueError(f"there is no set-up {setup!r}; there are real and paced")
    cell = Cell("real" if setup == "real" else "paced", float(rtt), float(mbit))
    if not cell.shape.mbit_up:
        raise ValueError("a bandwidth is above 0")
    return cell


def relative(step_seconds: float) -> Sequence[Cell]:
    """Round trips in steps of the full model on this machine, bandwidth unlimited."""
    return [
        Cell("real", steps * step_seconds * 1e3, None, rtt_steps=steps) for steps in RELATIVE_STEPS
    ]
