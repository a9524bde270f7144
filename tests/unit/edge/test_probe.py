"""The probe: what a cloud's manifest says about it ends up on the link, whatever it says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest

from services.edge.cloud_client import CloudClient
from services.edge.link import Link
from services.edge.probe import Probe, check_fit
from shared.errors import Mismatch
from shared.model import Manifest
from shared.protocol.version import PROTOCOL_VERSION

FITTING: dict[str, Any] = {
    "protocol_version": PROTOCOL_VERSION,
    "fingerprint": "f00d",
    "depth": 12,
    "span": [0, 12],
    "compute_format": "fp32",
    "modes": ["collaborative", "split"],
}


@dataclass(frozen=True)
class Ours:
    """The part of an edge bundle's manifest the probe reads."""

    fingerprint: str = "f00d"
    depth: int = 12
    split: int | None = 3


OURS = cast(Manifest, Ours())


async def look(link: Link, answer: Callable[[httpx.Request], httpx.Response]) -> None:
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://cloud"
    ) as http:
        await Probe(CloudClient(http, 4096), link, OURS, seconds=1).look()


def says(**changes: object) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(200, json=FITTING | changes)


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route")


@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_cloud_that_holds_the_layers_above_the_split_fits(start: int) -> None:
    check_fit(OURS, FITTING | {"span": [start, 12]})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol_version": 1}, "protocol version: edge has 4, cloud has 1"),
        ({"fingerprint": "beef"}, "model fingerprint: edge has f00d, cloud has beef"),
        ({"depth": 13}, "depth: edge has 12, cloud has 13"),
        ({"span": [4, 12]}, "split: edge has 3, cloud has layers from 4"),
        ({"span": None}, "split: edge has 3, cloud has layers from None"),
        ({"span": []}, "split"),
        ({"span": ["0"]}, "split"),
        ({"span": {"0": 0}}, "split"),
    ],
)
def test_a_difference_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(Mismatch, match=named):
        check_fit(OURS, FITTING | change)


def test_every_difference_is_named_at_once() -> None:
    with pytest.raises(Mismatch) as misfit:
        check_fit(OURS, {})
    assert set(misfit.value.differences) == {
        "protocol version",
        "model fingerprint",
        "depth",
        "split",
    }


async def test_a_fitting_cloud_brings_a_lost_link_back_with_its_format() -> None:
    link = Link(5, 60)
    link.failed("timeout")
    link.refused("another model")
    await look(link, says())
    assert (link.up, link.usable, link.cloud_format) == (True, True, "fp32")
    assert link.cloud_modes == ("collaborative", "split")
    assert link.round_trip_seconds is not None


@pytest.mark.parametrize("modes", [None, "cloud", {"cloud": 1}])
async def test_modes_that_are_no_list_are_none(modes: object) -> None:
    link = Link(5, 60)
    await look(link, says(modes=modes))
    assert (link.state, link.cloud_modes) == ("reachable", ())


async def test_an_exchanged_cloud_that_does_not_fit_takes_the_link_down() -> None:
    link = Link(5, 60)
    await look(link, says(fingerprint="beef"))
    assert not link.usable
    assert "model fingerprint" in str(link.unfit)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refuse, "refused"),
        (lambda request: httpx.Response(502), "status_502"),
        (lambda request: httpx.Response(200, content=b"<html>"), "malformed"),
    ],
)
async def test_a_lost_cloud_is_one_failure_however_often_it_is_looked_at(
    answer: Callable[[httpx.Request], httpx.Response], reason: str
) -> None:
    link = Link(5, 60)
    for _ in range(3):
        await look(link, answer)
    assert (link.failures, link.last_failure) == (1, reason)
