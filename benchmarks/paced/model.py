"""A model that computes its real tokens and takes the time of a larger one.

Wraps a loaded span for the services, which cannot tell: every forward and every head takes as long
as `Prices` says, and states are as wide as the larger model's (padded with zeros), so that what
crosses the network and what is coded and decoded has its size. It knows no services.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn.functional import pad

from benchmarks.paced.prices import Prices
from shared.model import KVCache, LayerSpan, Manifest, Segment, SpanModel
from shared.model.exits import ExitInfo
from shared.model.network import Network
from shared.model.ragged import stretches

LATE = "a step took longer than its price"

_log = logging.getLogger(__name__)


class PacedModel:
    """What the engines use of a `SpanModel`, paced and widened.

    Args:
        model: computes the tokens; its own time must be below the prices.
        prices: for a model of `model.shape.depth` layers.
        hidden: width of the states given out and taken, in values.

    A call that ends later than its price allows is logged.
    """

    def __init__(self, model: SpanModel, prices: Prices, *, hidden: int) -> None:
        if prices.depth != model.shape.depth:
            raise ValueError(
                f"prices for {prices.depth} layers do not fit a model of {model.shape.depth}"
            )
        if hidden < model.shape.hidden:
            raise ValueError(f"states of {model.shape.hidden} values do not fit into {hidden}")
        self._model = model
        self._prices = prices
        self.shape = replace(model.shape, hidden=hidden)
        self.span: LayerSpan = model.span
        self.dtype, self.device = model.dtype, model.device
        self.exits: Mapping[int, ExitInfo] = model.exits
        self.manifest: Manifest | None = model.manifest
        self._until = 0.0

    @property
    def network(self) -> Network:
        """See `SpanModel`."""
        return self._model.network

    @property
    def kv_bytes(self) -> int:
        """See `SpanModel`."""
        return self._model.kv_bytes

    @property
    def kv_budget_bytes(self) -> int | None:
        """See `SpanModel`."""
        return self._model.kv_budget_bytes

    @kv_budget_bytes.setter
    def kv_budget_bytes(self, limit: int | None) -> None:
        self._model.kv_budget_bytes = limit

    def new_cache(self) -> KVCache:
        """See `SpanModel`."""
        return self._model.new_cache()

    def forward(self, segments: Sequence[Segment]) -> list[Tensor]:
        """See `SpanModel.forward`; states taken and given are `shape.hidden` wide."""
        begins = self._begins(segments)
        began = time.perf_counter() if begins else self._until
        own = self._model.shape.hidden
        narrow = [s if s.states is None else replace(s, states=s.states[:, :own]) for s in segments]
        states = self._model.forward(narrow)
        self._hold(began, self._price(segments, begins=begins))
        return [pad(each, (0, self.shape.hidden - own)) for each in states]

    def logits(self, hidden: Tensor) -> Tensor:
        """See `SpanModel.logits`."""
        logits = self._model.logits(hidden[:, : self._model.shape.hidden])
        self._hold(self._until, self._prices.head)
        return logits

    def exit_logits(self, layer: int, hidden: Tensor) -> Tensor:
        """See `SpanModel.exit_logits`."""
        logits = self._model.exit_logits(layer, hidden[:, : self._model.shape.hidden])
        self._hold(self._until, self._prices.head)
        return logits

    def _begins(self, segments: Sequence[Segment]) -> bool:
        """Whether these rows begin a step: on an edge, going on above the split does not."""
        edge = self.manifest is not None and self.manifest.role == "edge"
        return not edge or any(s.start == self.span.start for s in segments)

    def _price(self, segments: Sequence[Segment], *, begins: bool) -> float:
        """Milliseconds of one forward: the rows of all segments share each layer they run."""
        milliseconds = self._prices.step if begins else 0.0
        for stretch in stretches(segments):
            rows = sum(segments[n].rows for n in stretch.active)
            milliseconds += self._prices.forward(stretch.last - stretch.first, rows, begins=False)
        return milliseconds

    def _hold(self, began: float, milliseconds: float) -> None:
        """Return not before `milliseconds` after `began`: what the engine did since the call before
        is part of the step, so a step's price holds as a whole.
        """
        self._until = began + milliseconds / 1e3
        left = self._until - time.perf_counter()
        if left > 0:
            time.sleep(left)
        else:
            # What a later call of the same step is priced at may still make up for it.
            _log.warning(LATE, extra={"milliseconds": round(-left * 1e3, 3)})
