"""How long whoever asked for something waits for it: what has not begun by then need not begin."""

import math
import time
from dataclasses import dataclass
from typing import Self

from shared.errors import DeadlinePassed


@dataclass(slots=True, eq=False)
class Deadline:
    """A moment on `time.perf_counter`'s clock, by default there is none; or an earlier one, when
    whoever asked is found to have gone.
    """

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float) -> Self:
        """So many seconds from now."""
        return cls(time.perf_counter() + seconds)

    @property
    def left(self) -> float:
        """Seconds until then; at least 0."""
        return max(0.0, self.at - time.perf_counter())

    def give_up(self) -> None:
        """Nobody waits any more; called from any thread."""
        assert self is not NEVER, "what never ends is everybody's"
        self.at = -math.inf

    def require(self) -> None:
        """Refuse to begin what nobody waits for any more.

        Raises:
            DeadlinePassed: it is later than that.
        """
        if not self.left:
            raise DeadlinePassed("whoever asked has stopped waiting: this was not begun")


NEVER = Deadline()
