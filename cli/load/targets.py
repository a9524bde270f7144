"""Which edges to load: addresses as a person gives them, and whether the edges are ready.

It knows `GET /readyz`; it does not know what a load is.
"""

import asyncio
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpx

from cli.errors import CommandError

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """One edge: what the report calls it (its address where no name is given), and its URL."""

    name: str
    url: str


def targets(given: Sequence[str], *, discover: bool) -> list[Target]:
    """The edges behind `[NAME=]URL` arguments; with `discover`, one for each address of a host.

    Raises:
        CommandError: an argument is no address, its host is not known, or a name comes twice.
    """
    found = [each for argument in given for each in _targets(argument, discover=discover)]
    names = [each.name for each in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CommandError(f"two edges are called {', '.join(twice)}")
    return found


def _targets(argument: str, *, discover: bool) -> Iterable[Target]:
    name, separator, rest = argument.partition("=")
    named = bool(separator) and "://" not in name
    try:
        url = httpx.URL(rest if named else argument)
    except httpx.InvalidURL as error:
        raise CommandError(f"--edge {argument}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise CommandError(f"--edge {argument}: not an address like http://127.0.0.1:8000")
    if not discover:
        return [Target(name if named else url.netloc.decode(), str(url))]
    if named:
        raise CommandError(f"--edge {argument}: edges that are discovered go by their addresses")
    return [
        Target(f"{address}:{url.port}" if url.port else address, str(url.copy_with(host=address)))
        for address in _addresses(url)
    ]


def _addresses(url: httpx.URL) -> list[str]:
    try:
        found = socket.getaddrinfo(url.host, url.port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise CommandError(f"no address is known for {url.host}: {error}") from error
    return sorted({str(entry[4][0]) for entry in found})


async def own_names(
    targets: Sequence[Target], clients: Sequence[httpx.AsyncClient]
) -> dict[str, str]:
    """What edges call themselves, by target name; those that do not say are left out."""
    names = await asyncio.gather(*map(_own_name, clients))
    return {each.name: name for each, name in zip(targets, names, strict=True) if name}


async def _own_name(client: httpx.AsyncClient) -> str | None:
    try:
        name = (await client.get("/readyz")).json().get("name")
    except (httpx.HTTPError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None


async def wait_ready(
    clients: Sequence[httpx.AsyncClient], *, seconds: float, with_cloud: bool
) -> None:
    """Return once every edge is ready, and has found its cloud where the load needs one.

    Raises:
        CommandError: one was not in time; its last answer is in the message.
    """
    deadline = time.monotonic() + seconds
    await asyncio.gather(*(_ready(each, deadline, with_cloud=with_cloud) for each in clients))


async def _ready(client: httpx.AsyncClient, deadline: float, *, with_cloud: bool) -> None:
    while True:
        try:
            answer = await client.get("/readyz")
            cloud = answer.json().get("cloud")
            if answer.is_success and (cloud == "reachable" or not with_cloud):
                return
            seen = f"HTTP {answer.status_code}, cloud {cloud}"
        except (httpx.HTTPError, ValueError, AttributeError) as error:
            seen = str(error) or type(error).__name__
        if time.monotonic() > deadline:
            raise CommandError(f"the edge at {client.base_url} was not ready in time: {seen}")
        await asyncio.sleep(POLL_SECONDS)
