"""The simulation held against measured paced cells: fitted on loopback, judged everywhere else.

Four figures of software (`world.Software`) are fitted to the paced rows without a network; every
row with one is then predicted from its trace, the price list, the measured round trip and the
measured bandwidth alone.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy

from benchmarks.deployments import DEPLOYMENTS, Deployment
from benchmarks.paced.prices import PAPER_HIDDEN, paper_prices
from benchmarks.rows import Row
from benchmarks.simulate.replay import replay
from benchmarks.simulate.sessions import Trace
from benchmarks.simulate.world import Machine, Software, Wire
from shared.protocol.messages import Codec
from shared.quantization import RowLayout

Traces = Mapping[str, Sequence[Trace]]

_FIGURES = [field.name for field in fields(Software)]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A measured row with what the simulation says of it."""

    row: Row
    total_s: float

    @property
    def error(self) -> float:
        """Relative, of the total."""
        return self.total_s / self.row.total_s - 1


@dataclass(frozen=True, slots=True)
class Validation:
    """The fitted software and a prediction of every row with a network; the rows fitted to are
    apart.
    """

    software: Software
    fitted: Sequence[Prediction]
    predicted: Sequence[Prediction]

    @property
    def worst(self) -> float:
        """The largest relative error, without its sign."""
        return max(abs(each.error) for each in self.predicted)

    @property
    def median(self) -> float:
        """The median relative error, without its sign."""
        return statistics.median(abs(each.error) for each in self.predicted)


def traces_of(told: Mapping[str, Sequence[Mapping[str, object]]]) -> Traces:
    """Traces as `traces.json` holds them."""
    return {
        name: [Trace(int(str(t["prompt_tokens"])), list(_strings(t["sources"]))) for t in those]
        for name, those in told.items()
    }


def _strings(value: object) -> Sequence[str]:
    if not isinstance(value, list):
        raise ValueError("a trace's sources are no list")
    return [str(each) for each in value]


def kind_of(deployment: Deployment) -> str | None:
    """Which session a deployment is; None where the simulation has none for its mode."""
    if deployment.resend:
        return "naive split"
    kinds = {"cloud": "cloud-only"} | {m: m for m in ("standalone", "split", "collaborative")}
    return kinds.get(str(deployment.mode))


def validate(rows: Sequence[Row], traces: Traces, *, depth: int) -> Validation:
    """Fit on loopback, predict the rest.

    Args:
        depth: layers of the model that was paced.

    Raises:
        ValueError: there are no paced rows on loopback, or none with a network.
    """
    loopback = [row for row in _modelled(rows, traces) if row.rtt_ms == 0]
    if not loopback or len(loopback) == len(_modelled(rows, traces)):
        raise ValueError("validation needs paced rows on loopback and others with a network")
    software = _fit(loopback, traces, depth)
    predictions = predict(rows, traces, software, depth=depth)
    fitted = [each for each in predictions if each.row.rtt_ms == 0]
    return Validation(software, fitted, [each for each in predictions if each.row.rtt_ms > 0])


def predict(
    rows: Sequence[Row], traces: Traces, software: Software, *, depth: int
) -> list[Prediction]:
    """What the simulation says of every paced row there is a session and a trace for, also of runs
    it was not fitted to.
    """
    found = _modelled(rows, traces)
    return [Prediction(row, _total(row, traces, depth, software)) for row in found]


def _modelled(rows: Sequence[Row], traces: Traces) -> list[Row]:
    """The paced rows that can be replayed."""
    known = {n for n, each in DEPLOYMENTS.items() if kind_of(each) is not None and n in traces}
    return [row for row in rows if row.setup == "paced" and row.deployment in known]


def _fit(rows: Sequence[Row], traces: Traces, depth: int) -> Software:
    """Least squares of what the engines do not explain, in relative errors; no figure below 0."""
    bare = Software()
    left = numpy.array([row.total_s - _total(row, traces, depth, bare) for row in rows])
    weights = numpy.array([1 / row.total_s for row in rows])
    units = [replace(bare, **{name: 1.0}) for name in _FIGURES]
    grown = numpy.array(
        [
            [_total(row, traces, depth, unit) - _total(row, traces, depth, bare) for unit in units]
            for row in rows
        ]
    )
    used = list(range(len(units)))
    while True:
        chosen = grown[:, used] * weights[:, None]
        found = numpy.linalg.lstsq(chosen, left * weights, rcond=None)[0]
        if (found >= 0).all():
            return Software(**{_FIGURES[n]: float(v) for n, v in zip(used, found, strict=True)})
        used.pop(int(found.argmin()))


def _total(row: Row, traces: Traces, depth: int, software: Software) -> float:
    deployment = DEPLOYMENTS[row.deployment]
    kind = kind_of(deployment)
    assert kind is not None
    first, last = row.split or 0, row.edge_depth or 0
    machine = Machine(paper_prices().scaled_to(depth), first, last, first, software)
    return replay(kind, machine, _wire(row), traces[row.deployment]).total_s


def _wire(row: Row) -> Wire:
    """The network a row was measured on, as asked where it was not measured, and its messages'
    sizes.
    """
    layout = RowLayout.of(cast(Codec, row.codec or "fp16"), PAPER_HIDDEN)
    rtt = row.rtt_ms if row.rtt_measured_ms is None else row.rtt_measured_ms
    limited = row.mbit is not None
    return Wire(
        rtt=rtt if row.rtt_ms else 0.0,
        up=(row.mbit_up_measured or row.mbit) if limited else None,
        down=(row.mbit_down_measured or row.mbit) if limited else None,
        row=layout.payload + layout.scales,
    )
