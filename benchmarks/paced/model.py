"""A model that computes its real tokens and takes the time of a larger one.

Wraps a loaded span for the services, which cannot tell: every forward and every head takes as long
as `Prices` says, and states are as wide as the larger model's (padded with zeros), so that what
crosses the network and what is coded and decoded has its size. It knows no services.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor
from torch.nn.functional import pad

from benchmarks.paced.device import Device
from benchmarks.paced.prices import Prices
from shared.errors import Abandoned
from shared.model import KVCache, LayerSpan, Manifest, Segment, SpanModel, Tap
from shared.model.exits import ExitInfo
from shared.model.network import Network
from shared.model.ragged import stretches, unwanted

# About a layer of the paper's model.
LAYER_SECONDS = 0.001
LATE = "a step took longer than its price"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ran:
    """One call of the model: `rows` through the layers [first, last), or a head where these are
    equal.

    Args:
        began, ended: on `time.perf_counter`'s clock.
        begins: it begins an engine's step; others go on with one.
        tapped: states were read on the way up.
    """

    began: float
    ended: float
    rows: int
    first: int
    last: int
    begins: bool
    tapped: bool


class PacedModel:
    """What the engines use of a `SpanModel`, paced and widened.

    Args:
        model: computes the tokens; its own time must be below the prices.
        prices: for a model of `model.shape.depth` layers.
        hidden: width of the states given out and taken, in values.
        device: what other processes compute on too; nobody does while a call here runs.
        note: told every call.

    A call that ends later than its price allows is logged.
    """

    def __init__(
        self,
        model: SpanModel,
        prices: Prices,
        *,
        hidden: int,
        device: Device | None = None,
        note: Callable[[Ran], None] | None = None,
    ) -> None:
        if prices.depth != model.shape.depth:
            raise ValueError(
                f"prices for {prices.depth} layers do not fit a model of {model.shape.depth}"
            )
        if hidden < model.shape.hidden:
            raise ValueError(f"states of {model.shape.hidden} values do not fit into {hidden}")
        self._model = model
        self._prices = prices
        self._device = device
        self._note = note
        self.shape = replace(model.shape, hidden=hidden)
        self.span: LayerSpan = model.span
        self.dtype, self.device = model.dtype, model.device
        self.exits: Mapping[int, ExitInfo] = model.exits
        self.manifest: Manifest | None = model.manifest
        self._until = 0.0
        self._caught_up = False

    @property
    def network(self) -> Network:
        """See `SpanModel`."""
        return self._model.network

    @property
    def kv_token_bytes(self) -> int:
        """See `SpanModel`."""
        return self._model.kv_token_bytes

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
        """See `SpanModel.forward`; states taken and given, a tap's too, are `shape.hidden` wide."""
        begins = self._begins(segments)
        with self._turn(begins=begins) as began:
            states = self._model.forward([self._narrowed(segment) for segment in segments])
            wanted = self._hold(began, self._price(segments, begins=begins), segments)
            ended = time.perf_counter()
        first, last = min(s.start for s in segments), max(s.stop for s in segments)
        tapped = any(s.tap is not None for s in segments)
        rows = sum(s.rows for s in segments)
        self._tell(Ran(began, ended, rows, first, last, begins, tapped))
        if not wanted:
            for segment in segments:
                segment.cache.extend(segment.layers, segment.position)
            raise Abandoned
        return [self._widened(each) for each in states]

    def logits(self, hidden: Tensor) -> Tensor:
        """See `SpanModel.logits`."""
        return self._head(self._model.logits, hidden, self.span.stop)

    def exit_logits(self, layer: int, hidden: Tensor) -> Tensor:
        """See `SpanModel.exit_logits`."""
        return self._head(partial(self._model.exit_logits, layer), hidden, layer)

    def _head(self, head: Callable[[Tensor], Tensor], hidden: Tensor, layer: int) -> Tensor:
        with self._turn(begins=False) as began:
            logits = head(hidden[:, : self._model.shape.hidden])
            self._hold(began, self._prices.head)
            ended = time.perf_counter()
        self._tell(Ran(began, ended, len(hidden), layer, layer, begins=False, tapped=False))
        return logits

    @contextmanager
    def _turn(self, *, begins: bool) -> Iterator[float]:
        """Hold the device for one call; yields when the call counts as begun."""
        if self._device is None:
            yield time.perf_counter() if begins else self._until
            return
        with self._device.turn(begins=begins) as waited:
            yield time.perf_counter() if begins or waited else self._until

    def _tell(self, ran: Ran) -> None:
        if self._note is not None:
            self._note(ran)

    def _narrowed(self, segment: Segment) -> Segment:
        """The segment as the model takes it."""
        own, tap = self._model.shape.hidden, segment.tap
        if segment.states is not None:
            segment = replace(segment, states=segment.states[:, :own])
        if tap is not None:
            narrow = Tap(tap.layer, lambda states: tap.take(self._widened(states))[:, :own])
            segment = replace(segment, tap=narrow)
        return segment

    def _widened(self, states: Tensor) -> Tensor:
        return pad(states, (0, self.shape.hidden - states.shape[1]))

    def _begins(self, segments: Sequence[Segment]) -> bool:
        """Whether these rows begin a step: on an edge, going on above the split does not; in a
        cloud, what follows after lower layers were caught up on does not.
        """
        edge = self.manifest is not None and self.manifest.role == "edge"
        if edge:
            return any(s.start == self.span.start for s in segments)
        caught_up, self._caught_up = self._caught_up, all(s.stop < self.span.stop for s in segments)
        return not caught_up

    def _price(self, segments: Sequence[Segment], *, begins: bool) -> float:
        """Milliseconds of one forward: the rows of all segments share each layer they run."""
        milliseconds = self._prices.step if begins else 0.0
        for stretch in stretches(segments):
            rows = sum(segments[n].rows for n in stretch.active)
            milliseconds += self._prices.forward(stretch.last - stretch.first, rows, begins=False)
        return milliseconds

    def _hold(self, began: float, milliseconds: float, segments: Sequence[Segment] = ()) -> bool:
        """Return not before `milliseconds` after `began`: what the engine did since the call before
        is part of the step, so a step's price holds as a whole. False as soon as none of `segments`
        is wanted any more, which is asked as often as the layers of the model this one stands for
        would.
        """
        self._until = began + milliseconds / 1e3
        left = self._until - time.perf_counter()
        if left <= 0:
            # What a later call of the same step is priced at may still make up for it.
            _log.warning(LATE, extra={"milliseconds": round(-left * 1e3, 3)})
        asks = any(segment.wanted is not None for segment in segments)
        while (left := self._until - time.perf_counter()) > 0:
            time.sleep(min(left, LAYER_SECONDS) if asks else left)
            if asks and unwanted(segments):
                self._until = time.perf_counter()
                return False
        return True
