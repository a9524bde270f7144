"""How much this edge is serving, of how much it takes on at once, and until when.

Classes are counted apart: emergencies have the room besides that everybody else has together.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from services.edge.metrics import EdgeMetrics
from shared.errors import Draining, Overloaded
from shared.runtime.lifecycle import Lifecycle
from shared.runtime.retry import Throughput, spread_out
from shared.runtime.work import Priority


@dataclass(slots=True)
class Load:
    """What is being served.

    Args:
        limit: requests of a class.
        most_tokens: tokens of a class, prompts and answers at their longest; 0 is no bound.
    """

    limit: int
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    most_tokens: int = 0
    running: Counter[Priority] = field(default_factory=Counter)
    tokens: Counter[Priority] = field(default_factory=Counter)
    _served: Throughput = field(default_factory=Throughput)

    def require_room(self, priority: Priority, tokens: int = 0) -> None:
        """Refuse one request of a class more than the limit, or one whose tokens are too many
        beside those being served; alone it may have as many as it wants.

        Raises:
            Overloaded: there is no room, and may be after the time an answer takes.
        """
        count, held, most = self.running[priority], self.tokens[priority], self.most_tokens
        if count >= self.limit:
            problem = f"{count} requests are being served, the most allowed"
        elif most and count and held + tokens > most:
            problem = f"{tokens} tokens beside {held} being served are more than {most}"
        else:
            return
        raise Overloaded(problem, retry_after=spread_out(self._served.seconds_for(1)))

    def require_time(self) -> None:
        """Refuse to go on when this edge is about to end.

        Raises:
            Draining: requests under way have had their time.
        """
        if self.lifecycle.over:
            raise Draining("this edge is ending: ask again, another or a later one")

    @contextmanager
    def serving(self, metrics: EdgeMetrics, priority: Priority, tokens: int) -> Iterator[None]:
        """Count one request, and the tokens it may come to, while it is served."""
        began = perf_counter()
        self.running[priority] += 1
        self.tokens[priority] += tokens
        metrics.running.inc()
        try:
            yield
            self._served.took(1, perf_counter() - began)
        finally:
            self.running[priority] -= 1
            self.tokens[priority] -= tokens
            metrics.running.dec()
