"""The probe: what a cloud's manifest says about it ends up on the link, whatever it says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest

from services.edge.cloud_client import CloudClient
from services.edge.link import Link
from services.edge.probe import Probe, check_fit
from services.edge.refusals import LOCKED_OUT
from services.edge.replicas import Replicas
from shared.errors import Mismatch
from shared.model import Manifest
from shared.protocol.version import PROTOCOL_VERSION
from shared.runtime.breaker import Breaker

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


Answer = Callable[[httpx.Request], httpx.Response]


def fleet(*names: str) -> Replicas:
    return Replicas([httpx.URL(f"http://{name}") for name in names], lambda: Breaker(0.0, 0.0))


async def look(
    link: Link, answer: Answer, replicas: Replicas | None = None, *, times: int = 1
) -> list[str]:
    """Look at replicas; returns those that were cut off."""
    cut: list[str] = []
    replicas = replicas or fleet("cloud")
    async with httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://cloud"
    ) as http:
        client = CloudClient(http, 4096)
        probe = Probe(client, link, replicas, OURS, 1, lambda each: cut.append(each.url.host))
        for _ in range(times):
            await probe.look()
    return cut


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
        ({"protocol_version": 1}, "protocol version: edge has 5, cloud has 1"),
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


async def test_one_replica_of_two_that_is_lost_or_does_not_fit_leaves_the_link_up() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return refuse(request) if request.url.host == "b" else says()(request)

    link, replicas = Link(5, 60), fleet("a", "b")
    await look(link, answer, replicas, times=2)
    a, b = replicas.known
    assert (link.state, a.serves, b.serves) == ("reachable", True, False)

    def exchanged(request: httpx.Request) -> httpx.Response:
        return says(depth=13)(request) if request.url.host == "a" else says()(request)

    await look(link, exchanged, replicas, times=2)
    assert (link.state, a.serves, b.serves) == ("reachable", False, True)
    assert "depth" in str(a.unfit)
    await look(link, says(depth=13), replicas, times=2)
    assert link.state == "unfit"
    await look(link, says(), replicas, times=2)
    assert (link.state, a.serves, b.serves) == ("reachable", True, True)


async def test_a_manifest_that_says_draining_is_of_a_replica_that_leaves() -> None:
    replicas = fleet("a")
    await look(Link(5, 60), says(draining=True), replicas)
    assert replicas.known[0].leaving
    await look(Link(5, 60), says(draining=False), replicas)
    assert not replicas.known[0].leaving


async def test_a_silent_replica_with_sessions_is_asked_twice_and_then_cut_off() -> None:
    asked: list[str] = []

    def silent(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        raise httpx.ReadTimeout("silence")

    replicas = fleet("a", "b")
    await replicas.refresh()
    a = replicas.known[0]
    a.sessions = 1
    assert await look(Link(5, 60), silent, replicas, times=1) in (["a"], ["a", "b"], ["b", "a"])
    assert asked.count("a") == 2
    assert not a.up
    assert asked.count("b") <= 1


async def test_a_silent_moment_cuts_nobody_off() -> None:
    asked: list[str] = []

    def once(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if len(asked) == 1:
            raise httpx.ReadTimeout("silence")
        return says()(request)

    replicas = fleet("a")
    await replicas.refresh()
    replicas.known[0].sessions = 1
    assert await look(Link(5, 60), once, replicas) == []
    assert replicas.known[0].up


async def test_a_fleet_of_edges_does_not_look_at_every_idle_replica_each_time() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return says()(request)

    await look(Link(5, 60), answer, fleet("a", "b", "c"), times=3)
    assert sorted(asked) == ["a", "b", "c"]


async def test_a_cloud_that_does_not_know_the_edges_key_is_unfit_until_it_does() -> None:
    def locked(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401)

    link, replicas = Link(5, 60), fleet("a")
    await look(link, locked, replicas)
    assert (link.state, link.unfit, link.misfit) == ("unfit", LOCKED_OUT["unauthorized"], False)
    assert (link.usable, link.failures, replicas.known[0].breaker.failures) == (False, 0, 0)
    await look(link, says(), replicas)
    assert (link.state, link.locked_out, replicas.known[0].serves) == ("reachable", False, True)


async def test_one_replica_that_fits_no_key_makes_the_cloud_a_misfit() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403) if request.url.host == "a" else says(depth=13)(request)

    link, replicas = Link(5, 60), fleet("a", "b")
    await look(link, answer, replicas, times=2)
    assert link.misfit
    assert "depth" in str(link.unfit)


async def test_a_cloud_that_limits_this_edge_is_there() -> None:
    link, replicas = Link(5, 60), fleet("a")
    await look(link, says(), replicas)
    await look(link, lambda request: httpx.Response(429), replicas, times=3)
    assert (link.state, replicas.known[0].serves) == ("reachable", True)
