"""When whoever was turned away should come back: by what there is to do, and not all at once."""

import random
from collections.abc import Callable
from dataclasses import dataclass

# Whoever is told less is back before anything has changed; whoever is told more has gone.
LEAST_SECONDS, MOST_SECONDS = 1.0, 20.0
# Half of what was measured is forgotten after about 14 measurements.
_KEPT = 0.95


def spread_out(seconds: float, chance: Callable[[], float] = random.random) -> float:
    """An estimate within bounds, made half as long to half as long again by chance: clients that
    were turned away together do not come back together. 0.5 to 30 s.
    """
    return min(MOST_SECONDS, max(LEAST_SECONDS, seconds)) * (0.5 + chance())


@dataclass(slots=True)
class Throughput:
    """How much of something is done in a second, by what was done lately."""

    _amount: float = 0.0
    _seconds: float = 0.0

    def took(self, amount: float, seconds: float) -> None:
        """So much was done in so long."""
        self._amount = self._amount * _KEPT + amount
        self._seconds = self._seconds * _KEPT + seconds

    def seconds_for(self, amount: float) -> float:
        """How long so much takes; 0 before anything was done."""
        return amount * self._seconds / self._amount if self._amount else 0.0
